"""The recurrence of an LSTM over all its steps: one direction of one layer, as one autograd Function.

What a step by step graph would do at every step is done once here: the gradient of the recurrent weight is one product
over the rows of all steps, and the derivatives of the gates are computed for all rows together.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..pattern import Pattern
from . import kernels
from .functions import check_held_values, hold_values, once

__all__ = ["LSTMFunction", "lstm"]

States = Tuple[Tensor, Tensor, Tensor]


def lstm(
    gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    pattern: Optional[Pattern],
    batch_sizes: Sequence[int],
    reverse: bool,
) -> States:
    """One direction of one LSTM layer, differentiable once. The gates stand in torch's order: input, forget, cell, out.

    Args:
        gates: (rows, 4 * size), the input's share of the gates. Rows as a PackedSequence has them: those of the first
            step, then those of the second, ...
        hidden, cell: (batch, size), the states before the first step.
        weight: the values (nnz,) of a recurrent weight with the positions `pattern`, of shape (4 * size, size); or, if
            `pattern` is None, that weight itself.
        bias: (4 * size,) or None.
        batch_sizes: the number of rows of each step; none is more than the one before it, the first is the batch.
        reverse: from the last step to the first.

    Returns:
        The hidden states (rows, size) of all steps, and the last hidden and cell state of each sequence, (batch, size).
        All float32 or all float64, on the CPU.
    """
    operands = [tensor for tensor in (gates, hidden, cell, weight, bias) if tensor is not None]
    # inside forward-mode AD the Function says that it has no jvp
    if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and any(each.requires_grad for each in operands)):
        return LSTMFunction.apply(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse)
    return _run(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse, None)


class _Record(NamedTuple):
    """What backward needs of each row: the gates, and the states before the step."""

    gates: Tensor
    hidden: Tensor
    cell: Tensor


def _run(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    pattern: Optional[Pattern],
    batch_sizes: Sequence[int],
    reverse: bool,
    record: Optional[_Record],
) -> States:
    # A step costs a few dozen microseconds, so views are not made there: those into the rows of all steps are made by
    # one call, those into what every step uses again once for each number of rows.
    size, counts = hidden.shape[1], set(batch_sizes)
    outputs = inputs.new_empty(inputs.shape[0], size)
    # All sequences have a row here. A step takes the first rows: those below belong to sequences that have ended, or
    # in reverse have not begun.
    hidden, cell = (state.clone(memory_format=torch.contiguous_format) for state in (hidden, cell))
    states = {count: (hidden[:count], cell[:count]) for count in counts}
    if record is None:
        buffer = inputs.new_empty(hidden.shape[0], 4 * size)
        by_count = {count: _gates(buffer[:count], size) for count in counts}
        gates = [by_count[count] for count in batch_sizes]
    else:
        gates = list(zip(*(each.split(batch_sizes) for each in _gates(record.gates, size))))
        before = list(zip(record.hidden.split(batch_sizes), record.cell.split(batch_sizes)))
    shares, rows = inputs.split(batch_sizes), outputs.split(batch_sizes)
    steps = range(len(batch_sizes))
    for step in reversed(steps) if reverse else steps:
        h, c = states[batch_sizes[step]]
        if record is not None:
            before[step][0].copy_(h)
            before[step][1].copy_(c)
        total, in_and_forget, in_, forget, candidate, out = gates[step]
        if pattern is None:
            torch.addmm(shares[step], h, weight.t(), out=total)
            if bias is not None:
                total.add_(bias)
        else:
            kernels.linear_forward(h, weight, bias, pattern, output=total)
            total.add_(shares[step])
        in_and_forget.sigmoid_()
        candidate.tanh_()
        out.sigmoid_()
        c.mul_(forget).addcmul_(in_, candidate)
        h.copy_(torch.mul(out, c.tanh(), out=rows[step]))
    return outputs, hidden, cell


def _gates(gates: Tensor, size: int) -> Tuple[Tensor, ...]:
    """Views: all gates, the first two of them, each of the four."""
    return (gates, gates[:, : 2 * size], *gates.split(size, 1))


class LSTMFunction(torch.autograd.Function):
    """`LSTMFunction.apply(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse)`: see :func:`lstm`.

    Hochreiter and Schmidhuber, "Long short-term memory" (1997), with forget gates (Gers et al., 2000). Backward
    computes the weight's and the bias's gradient only if they are asked for. It is differentiable once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight: Tensor,
        bias: Optional[Tensor],
        pattern: Optional[Pattern],
        batch_sizes: Sequence[int],
        reverse: bool,
    ) -> States:
        rows, size = gates.shape[0], hidden.shape[1]
        record = _Record(*(gates.new_empty(rows, width) for width in (4 * size, size, size)))
        states = _run(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse, record)
        ctx.save_for_backward(*record, weight)
        ctx.pattern, ctx.batch_sizes, ctx.reverse = pattern, batch_sizes, reverse
        if pattern is not None:
            hold_values(ctx, weight, pattern)
        return states

    @staticmethod
    def backward(
        ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor, grad_cell: Tensor
    ) -> Tuple[Optional[Tensor], ...]:
        if ctx.pattern is not None:
            check_held_values(ctx)
        *saved, weight = ctx.saved_tensors
        record = _Record(*saved)
        with torch.no_grad():
            grad_gates, grad_h, grad_c = _run_back(
                record, weight, ctx.pattern, ctx.batch_sizes, ctx.reverse, grad_outputs, grad_hidden, grad_cell
            )
            gradients = (
                grad_gates,
                grad_h,
                grad_c,
                _grad_weight(record.hidden, grad_gates, ctx.pattern) if ctx.needs_input_grad[3] else None,
                grad_gates.sum(0) if ctx.needs_input_grad[4] else None,
            )
        # each gradient depends on every operand, so on those that required one: this one stands for them
        source = record.gates.new_empty(0).requires_grad_()
        return (*once(gradients, source), None, None, None)


def _run_back(
    record: _Record,
    weight: Tensor,
    pattern: Optional[Pattern],
    batch_sizes: Sequence[int],
    reverse: bool,
    grad_outputs: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
) -> States:
    """The gradients of the gates before their activation, (rows, 4 * size), and of the first states."""
    rows, size = record.hidden.shape
    i, f, g, o = record.gates.view(rows, 4, size).unbind(1)
    tanh_cell = (f * record.cell).addcmul_(i, g).tanh_()
    # derivatives: of the hidden state in the cell; of the cell in what makes its three gates; of the hidden state in
    # what makes its own
    by_cell = o * (1 - tanh_cell * tanh_cell)
    by_gates = torch.stack((g * i * (1 - i), record.cell * f * (1 - f), i * (1 - g * g)), 1)
    by_out = tanh_cell * o * (1 - o)
    grad_gates = torch.empty_like(record.gates)
    of_gates = grad_gates.view(rows, 4, size)
    grad_hidden, grad_cell = (each.clone(memory_format=torch.contiguous_format) for each in (grad_hidden, grad_cell))
    states = {count: (grad_hidden[:count], grad_cell[:count], grad_cell[:count, None]) for count in set(batch_sizes)}
    of_steps = [grad_outputs, by_cell, by_gates, by_out, f, grad_gates, of_gates[:, :3], of_gates[:, 3]]
    views = list(zip(batch_sizes, *(each.split(batch_sizes) for each in of_steps)))
    for count, output, by_cell, by_gates, by_out, f, to_step, to_gates, to_out in views if reverse else reversed(views):
        dh, dc, dc_of_gates = states[count]
        dh.add_(output)
        dc.addcmul_(dh, by_cell)
        torch.mul(by_gates, dc_of_gates, out=to_gates)
        torch.mul(by_out, dh, out=to_out)
        dc.mul_(f)
        if pattern is None:
            torch.mm(to_step, weight, out=dh)
        else:
            kernels.linear_grad_input(to_step, weight, pattern, dh)
    return grad_gates, grad_hidden, grad_cell


def _grad_weight(hidden: Tensor, grad_gates: Tensor, pattern: Optional[Pattern]) -> Tensor:
    return grad_gates.t() @ hidden if pattern is None else kernels.linear_grad_values(hidden, grad_gates, pattern)
