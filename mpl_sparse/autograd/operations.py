"""linear and conv2d for torch tensors: the shortest way to the kernel.

A call costs a few microseconds, so nothing is checked twice: the core checks what it is given before it writes
anything, and only when a call has failed are the operands looked at again, to name the bad one in torch's terms.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..geometry import Pads, Pair, check_conv2d, check_linear, conv2d_geometry
from ..pattern import Pattern
from . import kernels, library
from .functions import AddmmFunction, SparseConv2dFunction

__all__ = ["conv2d", "linear", "traced_conv2d", "traced_linear"]

_FLOATS = (torch.float32, torch.float64)


def linear(input: Tensor, values: Tensor, bias: Optional[Tensor], pattern: Pattern, activation: str = "none") -> Tensor:
    """`activation(input @ W.T + bias)` for the sparse matrix W of `pattern` and `values`; differentiable once.

    `activation` is "none" or "relu": in the kernel where no gradient is asked for, else torch.relu after it.

    Shape:
        input (..., cols), values (nnz,), bias (rows,) or None; output (..., rows).
        All float32 or all float64, on the CPU.

    Raises:
        TypeError: an operand is not a tensor, or has another dtype.
        ValueError: an operand is not a dense CPU tensor, or has another shape.
    """
    if torch.compiler.is_compiling():
        row_ptr, col_idx = _positions(pattern)
        return traced_linear(input, values, bias, row_ptr, col_idx, pattern.cols, activation)
    try:
        if input.dtype is not values.dtype:
            input = _checked_operands(input, values, bias)
        batch = _as_matrix(input)
        if _differentiates(input, values, bias):
            output = _activated(AddmmFunction.apply(batch, values, bias, pattern), activation)
        else:
            output = kernels.linear_forward(batch, values, bias, pattern, activation)
    except Exception:
        _refuse_bad_operands(check_linear, input, values, bias, pattern)
        raise
    return output if batch is input else output.view(input.shape[:-1] + (pattern.rows,))


def traced_linear(
    input: Tensor,
    values: Tensor,
    bias: Optional[Tensor],
    row_ptr: Tensor,
    col_idx: Tensor,
    cols: int,
    activation: str = "none",
) -> Tensor:
    """`linear` as the op torch.ops.mpl_sparse.linear, for code that torch.compile or torch.export traces."""
    input = _checked_operands(input, values, bias)
    batch = _as_matrix(input)
    output = _activated(library.linear(batch, values, bias, row_ptr, col_idx, cols), activation)
    return output if input.dim() == 2 else output.view(input.shape[:-1] + output.shape[1:])


def conv2d(
    input: Tensor,
    values: Tensor,
    bias: Optional[Tensor],
    pattern: Pattern,
    kernel_size: Pair,
    stride: Pair,
    padding: Pads,
    dilation: Pair,
    groups: int,
    activation: str = "none",
) -> Tensor:
    """Convolution of images with the sparse weight of `pattern` and `values`; differentiable once.

    `padding` is (top, bottom, left, right), as `geometry.pads` gives it.
    `activation` is "none" or "relu": in the kernel where no gradient is asked for, else torch.relu after it.

    Shape:
        input (batch, in_channels, height, width) or (in_channels, height, width), values (nnz,), bias (rows,) or None;
        output (batch, rows, out_height, out_width), or without the batch as the input, and in its memory format.
        All float32 or all float64, on the CPU.

    Raises:
        TypeError: an operand is not a tensor, or has another dtype.
        ValueError: an operand is not a dense CPU tensor, or has another shape; or the sizes do not fit together.
    """
    if torch.compiler.is_compiling():
        row_ptr, col_idx = _positions(pattern)
        sizes = kernel_size, stride, padding, dilation, groups
        return traced_conv2d(input, values, bias, row_ptr, col_idx, pattern.cols, *sizes, activation)
    try:
        if input.dtype is not values.dtype:
            input = _checked_operands(input, values, bias)
        images = input.unsqueeze(0) if input.dim() == 3 else input
        geometry = conv2d_geometry(images.shape, pattern.rows, kernel_size, stride, padding, dilation, groups)
        if _differentiates(input, values, bias):
            output = _activated(SparseConv2dFunction.apply(images, values, bias, pattern, geometry), activation)
        else:
            output = kernels.conv2d_forward(images, values, bias, pattern, geometry, activation)
    except Exception:
        _refuse_bad_operands(_check_images, input, values, bias, pattern, kernel_size, groups)
        raise
    return output if images is input else output.squeeze(0)


def traced_conv2d(
    input: Tensor,
    values: Tensor,
    bias: Optional[Tensor],
    row_ptr: Tensor,
    col_idx: Tensor,
    cols: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pads,
    dilation: Pair,
    groups: int,
    activation: str = "none",
) -> Tensor:
    """`conv2d` as the op torch.ops.mpl_sparse.conv2d, for code that torch.compile or torch.export traces."""
    input = _checked_operands(input, values, bias)
    images = input.unsqueeze(0) if input.dim() == 3 else input
    output = library.conv2d(
        images, values, bias, row_ptr, col_idx, cols, kernel_size, stride, padding, dilation, groups
    )
    output = _activated(output, activation)
    return output.squeeze(0) if input.dim() == 3 else output


def _activated(output: Tensor, activation: str) -> Tensor:
    if activation == "none":
        return output
    if activation == "relu":
        return torch.relu(output)
    raise ValueError(f"activation must be 'none' or 'relu', got {activation!r}")


def _as_matrix(input: Tensor) -> Tensor:
    return input if input.dim() == 2 else input.reshape(math.prod(input.shape[:-1]), input.shape[-1])


def _differentiates(input: Tensor, values: Tensor, bias: Optional[Tensor]) -> bool:
    # inside forward-mode AD the Function says that it has no jvp; the bare kernel would drop the tangent
    return forward_ad._current_level >= 0 or (
        torch.is_grad_enabled()
        and (input.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad))
    )


def _refuse_bad_operands(
    check: Callable[..., None], input: Any, values: Any, bias: Any, pattern: Pattern, *sizes: Any
) -> None:
    """TypeError or ValueError that names the bad operand; nothing if all of them are good."""
    try:
        check(_checked_operands(input, values, bias), values, bias, pattern, *sizes)
    except (TypeError, ValueError) as error:
        raise error from None  # the core's own error says the same in other words


def _check_images(input: Tensor, *others: Any) -> None:
    check_conv2d(input.unsqueeze(0) if input.dim() == 3 else input, *others)


def _checked_operands(input: Tensor, values: Tensor, bias: Optional[Tensor]) -> Tensor:
    """`input`, in the values' dtype if autocast has made it half."""
    _check_tensor("values", values, _FLOATS)
    dtype = values.dtype
    if bias is not None:
        _check_tensor("bias", bias, (dtype,))
    if torch.is_autocast_enabled("cpu") and isinstance(input, Tensor) and input.dtype.itemsize == 2:
        input = input.to(dtype)
    _check_tensor("input", input, (dtype,))
    return input


def _check_tensor(name: str, tensor: Any, dtypes: Tuple[torch.dtype, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if not tensor.is_cpu or tensor.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense CPU tensor, got {tensor.layout} on {tensor.device}")
    if tensor.dtype not in dtypes:
        wanted = "torch.float32 or torch.float64" if dtypes is _FLOATS else f"{dtypes[0]} as values"
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")


def _positions(pattern: Pattern) -> Tuple[Tensor, Tensor]:
    return torch.tensor(pattern.row_ptr), torch.tensor(pattern.col_idx)


# all that torch.compiler.assume_constant_result does, but for its import of torch._dynamo, which takes seconds
_positions._dynamo_marked_constant = True  # type: ignore[attr-defined]
