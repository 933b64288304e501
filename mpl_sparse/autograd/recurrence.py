"""The recurrence of an LSTM over all its steps: one direction of one layer, as one autograd Function.

What a step by step graph would do at every step is done once here: the gradient of the recurrent weight is one product
over the rows of all steps, and the derivatives of the gates are computed for all rows together.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, cast

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
    return _run(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse, False)[0]


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
    recorded: bool,
) -> Tuple[States, Optional[_Record]]:
    # A step takes a few dozen microseconds, so what it needs is made before: views into the rows of all steps by one
    # call, views into a buffer that all steps use once for each number of rows.
    size = hidden.shape[1]
    outputs, cells = (inputs.new_empty(inputs.shape[0], size) for _ in range(2))
    h_rows, c_rows = outputs.split(batch_sizes), cells.split(batch_sizes)
    gates = inputs.new_empty(inputs.shape[0] if recorded else batch_sizes[0], 4 * size)
    if recorded:
        views = list(zip(*(each.split(batch_sizes) for each in _gates(gates, size))))
    else:
        by_count = {count: _gates(gates[:count], size) for count in set(batch_sizes)}
        views = [by_count[count] for count in batch_sizes]
    alone = batch_sizes[0] == 1  # one sequence: the kernel adds a step's share as its bias
    if bias is not None and (alone or pattern is None):
        inputs, bias = inputs + bias, None
    shares = inputs.unbind() if alone else inputs.split(batch_sizes)
    before: List[Tuple[Tensor, Tensor]] = []
    h, c = hidden[:0], cell[:0]
    steps = list(zip(batch_sizes, shares, views, h_rows, c_rows))
    for count, share, (total, in_and_forget, in_, forget, candidate, out), next_h, next_c in (
        reversed(steps) if reverse else steps
    ):
        if h.shape[0] != count:
            h, c = _states_of(h, hidden, count), _states_of(c, cell, count)
        if recorded:
            before.append((h, c))
        if pattern is None:
            torch.addmm(share, h, weight.t(), out=total)
        elif alone:
            kernels.linear_forward(h, weight, share, pattern, output=total)
        else:
            kernels.linear_forward(h, weight, bias, pattern, output=total)
            total.add_(share)
        in_and_forget.sigmoid_()
        candidate.tanh_()
        out.sigmoid_()
        c = torch.mul(forget, c, out=next_c).addcmul_(in_, candidate)
        h = torch.mul(out, torch.tanh(c, out=next_h), out=next_h)
    states = outputs, _last(h_rows, batch_sizes, reverse), _last(c_rows, batch_sizes, reverse)
    if not recorded:
        return states, None
    h_before, c_before = (torch.cat(each[::-1] if reverse else each) for each in zip(*before))
    return states, _Record(gates, h_before, c_before)


def _states_of(states: Tensor, first: Tensor, count: int) -> Tensor:
    """Those of the `count` first sequences, of which some may only begin now."""
    have = states.shape[0]
    return states[:count] if have >= count else torch.cat((states, first[have:count]))


def _last(rows: Sequence[Tensor], batch_sizes: Sequence[int], reverse: bool) -> Tensor:
    """The state of each sequence after its last step, given those of each step."""
    if reverse:
        return rows[0].clone()
    counts = (0, *batch_sizes[:0:-1])  # from the last step to the first: how many go on after it
    ended = [states[count:] for states, count in zip(reversed(rows), counts) if not count or states.shape[0] > count]
    return torch.cat(ended)


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
        states, record = _run(gates, hidden, cell, weight, bias, pattern, batch_sizes, reverse, True)
        ctx.save_for_backward(*cast(_Record, record), weight)
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
