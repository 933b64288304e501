"""Sparse linear and conv2d as functions of arrays: torch tensors (with autograd) or numpy arrays (without)."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np

from . import _core
from .geometry import check_conv2d, check_linear, conv2d_geometry, pads, pair, positive_int
from .pattern import CARRIED_BY_DLPACK, Pattern, is_tensor
from .threads import get_num_threads

__all__ = ["conv2d", "linear"]


def linear(input: Any, values: Any, pattern: Pattern, bias: Optional[Any] = None) -> Any:
    """`input @ W.T + bias` for the sparse matrix W of `pattern` and `values`.

    Pruned weights never touch the input: a NaN times a pruned weight is nothing, times a stored zero it is NaN.

    Args:
        input: (..., cols).
        values: (nnz,), in the order of the pattern: by row, then by column.
        pattern: the positions of the values in W, of shape (rows, cols).
        bias: (rows,) or None.

    Returns:
        (..., rows): a torch tensor with autograd for torch tensors, a numpy array for numpy arrays.

    Raises:
        TypeError: an operand is no array, they are not all of one library, or not all float32 or all float64.
        ValueError: an operand has the wrong shape or is not on the CPU.
    """
    _check_pattern(pattern)
    if is_tensor(input):
        from . import autograd

        return autograd.linear(input, values, bias, pattern)
    input, values, bias = _operands(input, values, bias)
    check_linear(input, values, bias, pattern)
    batch = input.reshape(math.prod(input.shape[:-1]), pattern.cols)
    output = np.empty((batch.shape[0], pattern.rows), input.dtype)
    _core.linear_forward(pattern.handle, values, batch, bias, output, get_num_threads())
    return output.reshape(input.shape[:-1] + (pattern.rows,))


def conv2d(
    input: Any,
    values: Any,
    pattern: Pattern,
    bias: Optional[Any] = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    kernel_size: Any = None,
) -> Any:
    """2-D convolution (cross-correlation, as torch has it) with the sparse weight of `pattern` and `values`.

    Pruned weights never touch the input: a NaN times a pruned weight is nothing, times a stored zero it is NaN.

    Args:
        input: (batch, in_channels, height, width) or (in_channels, height, width), of any strides.
        values: (nnz,), in the order of the pattern: by row, then by column.
        pattern: positions of shape (out_channels, in_channels / groups, kernel_height, kernel_width), or of the matrix
            with these rows and the rest as columns.
        bias: (out_channels,) or None.
        stride, dilation: an int or a (height, width) pair.
        padding: an int, a pair, 'valid' or 'same' (stride 1 only; the odd one goes to the end).
        groups: a divisor of both channel counts.
        kernel_size: an int or a pair; needed for a pattern with 2 dimensions, taken from one with 4.

    Returns:
        (batch, out_channels, out_height, out_width), or without the batch as the input: a torch tensor with autograd,
        in the input's memory format, for torch tensors; a numpy array for numpy arrays.

    Raises:
        TypeError: an operand is no array, they are not all of one library, or not all float32 or all float64.
        ValueError: an operand has the wrong shape or is not on the CPU; or the sizes do not fit together.
    """
    _check_pattern(pattern)
    kernel = _kernel_size(kernel_size, pattern)
    steps = pair("stride", stride)
    spread = pair("dilation", dilation)
    margins = pads(padding, kernel, steps, spread)
    groups = positive_int("groups", groups)
    if is_tensor(input):
        from . import autograd

        return autograd.conv2d(input, values, bias, pattern, kernel, steps, margins, spread, groups)
    input, values, bias = _operands(input, values, bias)
    images = input[None] if input.ndim == 3 else input
    check_conv2d(images, values, bias, pattern, kernel, groups)
    geometry = conv2d_geometry(images.shape, pattern.rows, kernel, steps, margins, spread, groups)
    output = np.empty((images.shape[0], pattern.rows, geometry.out_height, geometry.out_width), input.dtype)
    _core.conv2d_forward(pattern.handle, geometry, values, images, bias, output, get_num_threads())
    return output if images is input else output[0]


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a mpl_sparse.Pattern, got {type(pattern).__name__}")


def _kernel_size(kernel_size: Any, pattern: Pattern) -> Any:
    of_pattern = pattern.shape[2:] if len(pattern.shape) == 4 else None
    if kernel_size is None:
        if of_pattern is None:
            raise ValueError(f"kernel_size is needed for a pattern of shape {pattern.shape}")
        return pair("kernel_size", of_pattern)
    kernel = pair("kernel_size", kernel_size)
    if of_pattern is not None and kernel != of_pattern:
        raise ValueError(f"kernel_size {kernel} is not that of the pattern of shape {pattern.shape}")
    return kernel


def _operands(input: Any, values: Any, bias: Optional[Any]) -> Any:
    """The three as arrays that DLPack can carry and the core can read: copied only if they are not."""
    carried = [_operand("input", input), _operand("values", values), None if bias is None else _operand("bias", bias)]
    dtypes = {array.dtype for array in carried if array is not None}
    if len(dtypes) > 1:
        raise TypeError(f"input, values and bias must have one dtype, got {sorted(map(str, dtypes))}")
    return carried


def _operand(name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array (or all must be torch tensors), got {type(array).__name__}")
    dtype = array.dtype.newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    return np.require(array, dtype, CARRIED_BY_DLPACK if name == "input" else [*CARRIED_BY_DLPACK, "C_CONTIGUOUS"])
