"""The two operations as torch.library ops, for torch.compile and torch.export.

A pattern reaches an op as its two int32 tensors, so that an exported program holds everything it needs. The op finds
the Pattern, with its kernel plans, in a table keyed weakly on row_ptr, and builds it when it meets new positions.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .. import _core
from ..geometry import check_conv2d, check_linear, conv2d_geometry
from ..pattern import Pattern
from . import kernels
from .functions import ONCE

__all__ = ["remember_pattern"]

_patterns: Any = WeakTensorKeyDictionary()  # row_ptr -> (col_idx, both versions, Pattern)


def remember_pattern(row_ptr: Tensor, col_idx: Tensor, pattern: Pattern) -> None:
    """Let the ops use `pattern` when they are given these two tensors, as long as nobody writes to them."""
    _patterns[row_ptr] = (col_idx, _versions(row_ptr, col_idx), pattern)


def _versions(*tensors: Tensor) -> Tuple[int, ...]:
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


def _pattern(row_ptr: Tensor, col_idx: Tensor, cols: int) -> Pattern:
    known, versions, pattern = _patterns.get(row_ptr, (None, None, None))
    if known is not col_idx or versions != _versions(row_ptr, col_idx) or pattern.cols != cols:
        written = Pattern.from_csr(row_ptr, col_idx, (row_ptr.shape[0] - 1, cols))
        if known is None or not _same_positions(written, pattern):  # else its plans are still good
            pattern = written
        remember_pattern(row_ptr, col_idx, pattern)
    return pattern


def _same_positions(first: Pattern, second: Pattern) -> bool:
    arrays = (first.row_ptr, second.row_ptr), (first.col_idx, second.col_idx)
    return first.cols == second.cols and all(np.array_equal(*pair) for pair in arrays)


def _geometry(input_shape: Sequence[int], pattern: Pattern, sizes: Sequence[Any]) -> _core.Conv2dGeometry:
    kernel_size, stride, padding, dilation, groups = sizes
    return conv2d_geometry(
        tuple(input_shape), pattern.rows, tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups
    )


_SIZES = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups"


@torch.library.custom_op(
    "mpl_sparse::linear",
    mutates_args=(),
    schema="(Tensor input, Tensor values, Tensor? bias, Tensor row_ptr, Tensor col_idx, int cols) -> Tensor",
    device_types="cpu",
)
def linear(
    input: Tensor, values: Tensor, bias: Optional[Tensor], row_ptr: Tensor, col_idx: Tensor, cols: int
) -> Tensor:
    pattern = _pattern(row_ptr, col_idx, cols)
    check_linear(input, values, bias, pattern)
    return kernels.linear_forward(input, values, bias, pattern)


@linear.register_fake
def _(input: Tensor, values: Tensor, bias: Optional[Tensor], row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    return input.new_empty((input.shape[0], row_ptr.shape[0] - 1))


@torch.library.custom_op(
    "mpl_sparse::linear_grad_input",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor values, Tensor row_ptr, Tensor col_idx, int cols) -> Tensor",
    device_types="cpu",
)
def linear_grad_input(grad_output: Tensor, values: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    return kernels.linear_grad_input(grad_output, values, _pattern(row_ptr, col_idx, cols))


@linear_grad_input.register_fake
def _(grad_output: Tensor, values: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    return grad_output.new_empty((grad_output.shape[0], cols))


@torch.library.custom_op(
    "mpl_sparse::linear_grad_values",
    mutates_args=(),
    schema="(Tensor input, Tensor grad_output, Tensor row_ptr, Tensor col_idx, int cols) -> Tensor",
    device_types="cpu",
)
def linear_grad_values(input: Tensor, grad_output: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    return kernels.linear_grad_values(input, grad_output, _pattern(row_ptr, col_idx, cols))


@linear_grad_values.register_fake
def _(input: Tensor, grad_output: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    return input.new_empty((col_idx.shape[0],))


def _save_linear(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    input, values, _, row_ptr, col_idx, ctx.cols = inputs
    needs_input, needs_values = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if needs_values else None, values if needs_input else None, row_ptr, col_idx)


def _linear_backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
    input, values, *positions = ctx.saved_tensors
    return (
        None if values is None else linear_grad_input(grad_output, values, *positions, ctx.cols),
        None if input is None else linear_grad_values(input, grad_output, *positions, ctx.cols),
        grad_output.sum(0) if ctx.needs_input_grad[2] else None,
        None,
        None,
        None,
    )


linear.register_autograd(_linear_backward, setup_context=_save_linear)


@torch.library.custom_op(
    "mpl_sparse::conv2d",
    mutates_args=(),
    schema="(Tensor input, Tensor values, Tensor? bias, Tensor row_ptr, Tensor col_idx, int cols, "
    + _SIZES
    + ") -> Tensor",
    device_types="cpu",
)
def conv2d(
    input: Tensor, values: Tensor, bias: Optional[Tensor], row_ptr: Tensor, col_idx: Tensor, cols: int, *sizes: Any
) -> Tensor:
    pattern = _pattern(row_ptr, col_idx, cols)
    check_conv2d(input, values, bias, pattern, sizes[0], sizes[-1])
    return kernels.conv2d_forward(input, values, bias, pattern, _geometry(input.shape, pattern, sizes))


@conv2d.register_fake
def _(
    input: Tensor, values: Tensor, bias: Optional[Tensor], row_ptr: Tensor, col_idx: Tensor, cols: int, *sizes: Any
) -> Tensor:
    kernel_size, stride, padding, dilation, _groups = sizes
    padded = input.shape[2] + padding[0] + padding[1], input.shape[3] + padding[2] + padding[3]
    height, width = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded, kernel_size, stride, dilation))
    return torch.empty(
        (input.shape[0], row_ptr.shape[0] - 1, height, width),
        dtype=input.dtype,
        device=input.device,
        memory_format=kernels.memory_format(input),
    )


@torch.library.custom_op(
    "mpl_sparse::conv2d_grad_input",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor values, Tensor row_ptr, Tensor col_idx, int cols, SymInt[] input_shape, "
    + _SIZES
    + ") -> Tensor",
    device_types="cpu",
)
def conv2d_grad_input(
    grad_output: Tensor,
    values: Tensor,
    row_ptr: Tensor,
    col_idx: Tensor,
    cols: int,
    input_shape: Sequence[int],
    *sizes: Any,
) -> Tensor:
    pattern = _pattern(row_ptr, col_idx, cols)
    geometry = _geometry(input_shape, pattern, sizes)
    return kernels.conv2d_grad_input(grad_output, values, pattern, geometry, torch.Size(input_shape))


@conv2d_grad_input.register_fake
def _(
    grad_output: Tensor,
    values: Tensor,
    row_ptr: Tensor,
    col_idx: Tensor,
    cols: int,
    input_shape: Sequence[int],
    *sizes: Any,
) -> Tensor:
    return torch.empty(
        input_shape,
        dtype=grad_output.dtype,
        device=grad_output.device,
        memory_format=kernels.memory_format(grad_output),
    )


@torch.library.custom_op(
    "mpl_sparse::conv2d_grad_values",
    mutates_args=(),
    schema="(Tensor input, Tensor grad_output, Tensor row_ptr, Tensor col_idx, int cols, " + _SIZES + ") -> Tensor",
    device_types="cpu",
)
def conv2d_grad_values(
    input: Tensor, grad_output: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int, *sizes: Any
) -> Tensor:
    pattern = _pattern(row_ptr, col_idx, cols)
    return kernels.conv2d_grad_values(input, grad_output, pattern, _geometry(input.shape, pattern, sizes))


@conv2d_grad_values.register_fake
def _(input: Tensor, grad_output: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int, *sizes: Any) -> Tensor:
    return input.new_empty((col_idx.shape[0],))


def _save_conv2d(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    input, values, _, row_ptr, col_idx, ctx.cols, *sizes = inputs
    ctx.sizes, ctx.input_shape = sizes, input.shape
    needs_input, needs_values = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if needs_values else None, values if needs_input else None, row_ptr, col_idx)


def _conv2d_backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
    input, values, *positions = ctx.saved_tensors
    return (
        None
        if values is None
        else conv2d_grad_input(grad_output, values, *positions, ctx.cols, ctx.input_shape, *ctx.sizes),
        None if input is None else conv2d_grad_values(input, grad_output, *positions, ctx.cols, *ctx.sizes),
        grad_output.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None,
        *[None] * 8,
    )


conv2d.register_autograd(_conv2d_backward, setup_context=_save_conv2d)


def _no_second_gradient(ctx: Any, *_: Tensor) -> Any:
    raise RuntimeError(ONCE)


for _grad_op in (linear_grad_input, linear_grad_values, conv2d_grad_input, conv2d_grad_values):
    _grad_op.register_autograd(_no_second_gradient)
