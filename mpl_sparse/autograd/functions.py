"""The two operations as torch autograd Functions."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from .. import _core
from ..pattern import Pattern
from . import kernels

__all__ = ["AddmmFunction", "SparseConv2dFunction"]


ONCE = "sparse layers are differentiable once: there is no gradient of their gradient"

Gradients = Tuple[Optional[Tensor], ...]


class _NoSecondGradient(torch.autograd.Function):
    """Hands a gradient on; who differentiates it is told why not. `sources` are what the gradient depends on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *sources: Optional[Tensor]) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(ONCE)


def once(gradients: Gradients, *sources: Optional[Tensor]) -> Gradients:
    """`gradients`, in a graph that refuses to differentiate them again. `sources` are what they depend on."""
    if not torch.is_grad_enabled():  # create_graph=False: nobody can differentiate them
        return gradients
    return tuple(None if g is None else _NoSecondGradient.apply(g, *sources) for g in gradients)


def hold_values(ctx: Any, values: Tensor, pattern: Pattern) -> None:
    """Note in `ctx` which values, at which positions, its forward has read."""
    ctx.pattern = pattern
    # the parameter and the memory it had, held so that no other gets its address: pruning a layer swaps that memory
    ctx.values, ctx.memory, ctx.address = values, values.untyped_storage(), values.data_ptr()


def check_held_values(ctx: Any) -> None:
    """RuntimeError if the values that forward has read belong to other positions now."""
    if ctx.values.shape != (ctx.pattern.nnz,) or ctx.values.data_ptr() != ctx.address:
        raise RuntimeError(
            f"the values moved from {ctx.pattern.nnz} to {ctx.values.numel()} positions between forward and backward: "
            "prune or load a layer after backward, or run forward again"
        )


def _save(ctx: Any, input: Tensor, values: Tensor, pattern: Pattern) -> None:
    # each operand is kept only for the other's gradient
    needs_input, needs_values = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if needs_values else None, values if needs_input else None)
    hold_values(ctx, values, pattern)


def _saved(ctx: Any) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    check_held_values(ctx)
    return ctx.saved_tensors


class AddmmFunction(torch.autograd.Function):
    """`AddmmFunction.apply(input, values, bias, pattern)`: `input @ W.T + bias`, W the sparse matrix of the values.

    Shape:
        input (batch, cols), values (nnz,), bias (rows,) or None; output (batch, rows). All float32 or all float64.

    Backward computes only the gradients that are asked for, that of `values` at the nonzeros only. It is differentiable
    once. The core checks shapes and dtypes; `mpl_sparse.functional.linear` is the friendlier entry.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, values: Tensor, bias: Optional[Tensor], pattern: Pattern) -> Tensor:
        _save(ctx, input, values, pattern)
        return kernels.linear_forward(input, values, bias, pattern)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        input, values = _saved(ctx)
        with torch.no_grad():
            gradients = (
                None if values is None else kernels.linear_grad_input(grad_output, values, ctx.pattern),
                None if input is None else kernels.linear_grad_values(input, grad_output, ctx.pattern),
                grad_output.sum(0) if ctx.needs_input_grad[2] else None,
            )
        return (*once(gradients, grad_output, input, values), None)


class SparseConv2dFunction(torch.autograd.Function):
    """`SparseConv2dFunction.apply(input, values, bias, pattern, geometry)`: direct sparse convolution.

    Shape:
        input (batch, in_channels, height, width), values (nnz,), bias (out_channels,) or None;
        output (batch, out_channels, out_height, out_width) in the input's memory format. All float32 or all float64.

    Backward computes only the gradients that are asked for, that of `values` at the nonzeros only. It is differentiable
    once. The core checks shapes and dtypes; `mpl_sparse.functional.conv2d` is the friendlier entry.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        values: Tensor,
        bias: Optional[Tensor],
        pattern: Pattern,
        geometry: _core.Conv2dGeometry,
    ) -> Tensor:
        _save(ctx, input, values, pattern)
        ctx.geometry, ctx.input_shape = geometry, input.shape
        return kernels.conv2d_forward(input, values, bias, pattern, geometry)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        input, values = _saved(ctx)
        pattern, geometry = ctx.pattern, ctx.geometry
        with torch.no_grad():
            gradients = (
                None
                if values is None
                else kernels.conv2d_grad_input(grad_output, values, pattern, geometry, ctx.input_shape),
                None if input is None else kernels.conv2d_grad_values(input, grad_output, pattern, geometry),
                grad_output.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None,
            )
        return (*once(gradients, grad_output, input, values), None, None)
