"""linear and conv2d for torch tensors: the shortest way to the kernel.

A call costs a few microseconds, so nothing is checked twice: the core checks what it is given before it writes
anything, and only when a call has failed are the operands looked at again, to name the bad one in torch's terms.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad

from ..geometry import Pads, Pair, check_conv2d, check_linear, conv2d_geometry
from ..pattern import Pattern
from . import kernels, library
from .dense import dense_conv2d, dense_linear
from .functions import AddmmFunction, SparseConv2dFunction
from .recording import is_recorded
from .transforms import transformed_conv2d, transformed_linear

__all__ = ["conv2d", "eager_conv2d", "eager_linear", "linear", "runs_on_kernels", "traced_conv2d", "traced_linear"]

_FLOATS = (torch.float32, torch.float64)  # what the kernels compute in
_HALVES = (torch.float16, torch.bfloat16)


def linear(input: Tensor, values: Tensor, bias: Optional[Tensor], pattern: Pattern, activation: str = "none") -> Tensor:
    """`activation(input @ W.T + bias)` for the sparse matrix W of `pattern` and `values`; differentiable once.

    `activation` is "none" or "relu": in the kernel where no gradient is asked for, else torch.relu after it.

    Shape:
        input (..., cols), values (nnz,), bias (rows,) or None; output (..., rows).
        All of one dtype, on the CPU: float32, float64, or float16 or bfloat16, which are computed in float32. Under
        autocast an input of 16 bits, and a float32 input for values of 16 bits, is taken to the values' dtype.

    Raises:
        TypeError: an operand is not a tensor, or has another dtype.
        ValueError: an operand is not a dense CPU tensor, or has another shape.
    """
    if is_recorded():
        if torch.onnx.is_in_onnx_export():
            return dense_linear(input, values, bias, pattern, activation)
        row_ptr, col_idx = _positions(pattern)
        return traced_linear(input, values, bias, row_ptr, col_idx, pattern.cols, activation)
    return eager_linear(input, values, bias, pattern, activation)


def eager_linear(
    input: Tensor, values: Tensor, bias: Optional[Tensor], pattern: Pattern, activation: str = "none"
) -> Tensor:
    """`linear` where nothing is recorded (see `is_recorded`)."""
    try:
        if not input.dtype is values.dtype in _FLOATS:
            input = _checked_operands(input, values, bias)
            if values.dtype in _HALVES:
                return _widened(eager_linear, input, values, bias, pattern, activation)
        batch = _as_matrix(input)
        if _differentiates(input, values, bias):
            output = _activated(AddmmFunction.apply(batch, values, bias, pattern), activation)
        else:
            output = kernels.linear_forward(batch, values, bias, pattern, activation)
    except Exception:
        _refuse_bad_operands(check_linear, input, values, bias, pattern)
        op = _op_beyond_kernels(library.linear, transformed_linear, values)
        if op is None:
            raise
        return _run_linear(op, input, values, bias, *_positions(pattern), pattern.cols, activation)
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
    if values.dtype in _HALVES:
        return _widened(traced_linear, input, values, bias, row_ptr, col_idx, cols, activation)
    return _run_linear(library.linear, input, values, bias, row_ptr, col_idx, cols, activation)


def _run_linear(op: Any, input: Tensor, values: Tensor, bias: Optional[Tensor], *rest: Any) -> Tensor:
    *positions, activation = rest
    output = _activated(op(_as_matrix(input), values, bias, *positions), activation)
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
        The dtypes are those of `linear`.

    Raises:
        TypeError: an operand is not a tensor, or has another dtype.
        ValueError: an operand is not a dense CPU tensor, or has another shape; or the sizes do not fit together.
    """
    sizes = kernel_size, stride, padding, dilation, groups
    if is_recorded():
        if torch.onnx.is_in_onnx_export():
            return dense_conv2d(input, values, bias, pattern, *sizes, activation)
        row_ptr, col_idx = _positions(pattern)
        return traced_conv2d(input, values, bias, row_ptr, col_idx, pattern.cols, *sizes, activation)
    return eager_conv2d(input, values, bias, pattern, *sizes, activation)


def eager_conv2d(
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
    """`conv2d` where nothing is recorded (see `is_recorded`)."""
    try:
        if not input.dtype is values.dtype in _FLOATS:
            input = _checked_operands(input, values, bias)
            if values.dtype in _HALVES:
                sizes = kernel_size, stride, padding, dilation, groups
                return _widened(eager_conv2d, input, values, bias, pattern, *sizes, activation)
        images = input.unsqueeze(0) if input.dim() == 3 else input
        geometry = conv2d_geometry(images.shape, pattern.rows, kernel_size, stride, padding, dilation, groups)
        if _differentiates(input, values, bias):
            output = _activated(SparseConv2dFunction.apply(images, values, bias, pattern, geometry), activation)
        else:
            output = kernels.conv2d_forward(images, values, bias, pattern, geometry, activation)
    except Exception:
        _refuse_bad_operands(_check_images, input, values, bias, pattern, kernel_size, groups)
        op = _op_beyond_kernels(library.conv2d, transformed_conv2d, values)
        if op is None:
            raise
        sizes = kernel_size, stride, padding, dilation, groups
        return _run_conv2d(op, input, values, bias, *_positions(pattern), pattern.cols, *sizes, activation)
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
    rest = row_ptr, col_idx, cols, kernel_size, stride, padding, dilation, groups, activation
    if values.dtype in _HALVES:
        return _widened(traced_conv2d, input, values, bias, *rest)
    return _run_conv2d(library.conv2d, input, values, bias, *rest)


def _run_conv2d(op: Any, input: Tensor, values: Tensor, bias: Optional[Tensor], *rest: Any) -> Tensor:
    *positions_and_sizes, activation = rest
    images = input.unsqueeze(0) if input.dim() == 3 else input
    output = _activated(op(images, values, bias, *positions_and_sizes), activation)
    return output.squeeze(0) if input.dim() == 3 else output


def runs_on_kernels(values: Tensor) -> bool:
    """Whether kernels compute with `values` as they are: float32 or float64, and nothing records or transforms them."""
    plain = values.dtype in _FLOATS and not values.is_meta
    return plain and not is_recorded() and not _are_functorch_transforms_active()


def _op_beyond_kernels(op: Any, transformed: Any, values: Tensor) -> Any:
    """What computes where tensors have no memory of their own: in torch.func and on the meta device. Else None."""
    if _are_functorch_transforms_active():
        return transformed
    return op if values.is_meta else None


def _widened(operation: Callable[..., Tensor], input: Tensor, values: Tensor, bias: Any, *rest: Any) -> Tensor:
    """The operation on 16-bit operands, computed in float32 and rounded once; so are the gradients."""
    bias = None if bias is None else bias.float()
    return operation(input.float(), values.float(), bias, *rest).to(values.dtype)


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
    """`input`, in the values' dtype if autocast is to see to that."""
    on_meta = all(isinstance(tensor, Tensor) and tensor.is_meta for tensor in (input, values))
    device = "meta" if on_meta else "cpu"
    _check_tensor("values", values, device, *_FLOATS, *_HALVES)
    dtype = values.dtype
    if bias is not None:
        _check_tensor("bias", bias, device, dtype)
    if isinstance(input, Tensor) and _autocasts(input.dtype, dtype):
        input = input.to(dtype)
    _check_tensor("input", input, device, dtype)
    return input


def _autocasts(dtype: torch.dtype, to: torch.dtype) -> bool:
    # the values' dtype was somebody's choice: autocast takes the input to it, up or down, and never double
    to_half = dtype is torch.float32 and to in _HALVES
    return torch.is_autocast_enabled("cpu") and (dtype in _HALVES or to_half)


def _check_tensor(name: str, tensor: Any, device: str, *dtypes: torch.dtype) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.device.type != device or tensor.layout is not torch.strided:
        wanted = "CPU tensor" if device == "cpu" else f"tensor on {device} as input and values"
        raise ValueError(f"{name} must be a dense {wanted}, got {tensor.layout} on {tensor.device}")
    if tensor.dtype not in dtypes:
        *others, last = map(str, dtypes)
        wanted = f"{', '.join(others)} or {last}" if others else f"{last} as values"
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")


def _positions(pattern: Pattern) -> Tuple[Tensor, Tensor]:
    return torch.tensor(pattern.row_ptr, device=kernels.CPU), torch.tensor(pattern.col_idx, device=kernels.CPU)


# all that torch.compiler.assume_constant_result does, but for its import of torch._dynamo, which takes seconds
_positions._dynamo_marked_constant = True  # type: ignore[attr-defined]
