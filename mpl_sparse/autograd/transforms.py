"""linear and conv2d under torch.func: grad, vjp, jacrev and vmap, in any nesting but for a second derivative."""

from __future__ import annotations

from typing import Any, Callable, Tuple

import torch
from torch import Tensor

from . import library
from .functions import Gradients, once

__all__ = ["transformed_conv2d", "transformed_linear"]


class _Linear(torch.autograd.Function):
    """library.linear in the form that torch.func takes apart."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*operands: Any) -> Tensor:
        return library.linear(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
        input, values, _, row_ptr, col_idx, ctx.cols = inputs
        ctx.save_for_backward(input, values, row_ptr, col_idx)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Gradients:
        input, values, *positions = ctx.saved_tensors
        needs_input, needs_values = ctx.needs_input_grad[:2]
        with torch.no_grad():
            gradients: Gradients = (
                library.linear_grad_input(grad_output, values, *positions, ctx.cols) if needs_input else None,
                library.linear_grad_values(input, grad_output, *positions, ctx.cols) if needs_values else None,
            )
        gradients = once(gradients, grad_output, input, values)
        return (*gradients, grad_output.sum(0) if ctx.needs_input_grad[2] else None, None, None, None)


class _Conv2d(torch.autograd.Function):
    """library.conv2d in the form that torch.func takes apart."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*operands: Any) -> Tensor:
        return library.conv2d(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
        input, values, _, row_ptr, col_idx, ctx.cols, *ctx.sizes = inputs
        ctx.save_for_backward(input, values, row_ptr, col_idx)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Gradients:
        input, values, *positions = ctx.saved_tensors
        needs_input, needs_values = ctx.needs_input_grad[:2]
        with torch.no_grad():
            gradients: Gradients = (
                library.conv2d_grad_input(grad_output, values, *positions, ctx.cols, input.shape, *ctx.sizes)
                if needs_input
                else None,
                library.conv2d_grad_values(input, grad_output, *positions, ctx.cols, *ctx.sizes)
                if needs_values
                else None,
            )
        gradients = once(gradients, grad_output, input, values)
        return (*gradients, grad_output.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, *[None] * 8)


transformed_linear: Callable[..., Tensor] = _Linear.apply
transformed_conv2d: Callable[..., Tensor] = _Conv2d.apply


def _one_by_one(op: Any) -> Callable[..., Tuple[Tensor, int]]:
    """The rule by which vmap runs `op`: once for each sample."""

    def rule(info: Any, in_dims: Tuple[Any, ...], *operands: Any) -> Tuple[Tensor, int]:
        samples = (
            [each.select(dim, index) if isinstance(dim, int) else each for each, dim in zip(operands, in_dims)]
            for index in range(info.batch_size)
        )
        return torch.stack([op(*sample) for sample in samples]), 0

    return rule


def _as_one_batch(op: Any) -> Callable[..., Tuple[Tensor, int]]:
    """The rule by which vmap runs `op`: once for all samples, where they differ in the input only."""
    one_by_one = _one_by_one(op)

    def rule(info: Any, in_dims: Tuple[Any, ...], input: Tensor, *others: Any) -> Tuple[Tensor, int]:
        if any(isinstance(dim, int) for dim in in_dims[1:]):
            return one_by_one(info, in_dims, input, *others)
        samples = input.movedim(in_dims[0], 0)
        return op(samples.flatten(0, 1), *others).unflatten(0, samples.shape[:2]), 0

    return rule


_RULES = {
    library.linear: _as_one_batch,
    library.conv2d: _as_one_batch,
    library.linear_grad_input: _one_by_one,
    library.linear_grad_values: _one_by_one,
    library.conv2d_grad_input: _one_by_one,
    library.conv2d_grad_values: _one_by_one,
}
if hasattr(library.linear, "register_vmap"):  # torch 2.4 has only its own loop, which warns that it is slow
    for _op, _rule in _RULES.items():
        _op.register_vmap(_rule(_op))
