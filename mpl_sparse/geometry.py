"""Arguments and shapes of the two operations, checked before any kernel runs. Knows neither numpy nor torch."""

from __future__ import annotations

import functools
import operator
from typing import Any, Optional, Sequence, Tuple

from . import _core
from .pattern import INT32_MAX, Pattern

__all__ = ["check_conv2d", "check_linear", "conv2d_geometry", "pads", "pair", "positive_int"]

Pair = Tuple[int, int]
Pads = Tuple[int, int, int, int]


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int in [`least`, 2**31 - 1]; TypeError or ValueError naming it otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if number > INT32_MAX:
        raise ValueError(f"{name} must be at most {INT32_MAX}, got {value!r}")
    return number


def pair(name: str, value: Any, least: int = 1) -> Pair:
    """(height, width) of an int or a pair of ints, each >= `least`."""
    if isinstance(value, (tuple, list)):
        if len(value) not in (1, 2):
            raise ValueError(f"{name} must be an integer or a pair, got {value!r}")
        height, width = value[0], value[-1]
    else:
        height = width = value
    return positive_int(name, height, least), positive_int(name, width, least)


def pads(padding: Any, kernel_size: Pair, stride: Pair, dilation: Pair) -> Pads:
    """(top, bottom, left, right) of an int, a pair, 'valid' or 'same', whose odd one goes to the end as in torch.

    Raises:
        TypeError: `padding` is none of these.
        ValueError: it is negative, another string, or 'same' with a stride other than 1.
    """
    if not isinstance(padding, str):
        height, width = pair("padding", padding, 0)
        return height, height, width, width
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        raise ValueError(f"padding must be an integer, a pair, 'same' or 'valid', got {padding!r}")
    if stride != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
    height, width = (d * (k - 1) for d, k in zip(dilation, kernel_size))
    return height // 2, height - height // 2, width // 2, width - width // 2


@functools.lru_cache(maxsize=256)
def conv2d_geometry(
    input_shape: Sequence[int],
    out_channels: int,
    kernel_size: Pair,
    stride: Pair,
    padding: Pads,
    dilation: Pair,
    groups: int,
) -> _core.Conv2dGeometry:
    """The geometry of a convolution; the other arguments are as `pair` and `pads` give them.

    Shape:
        input (batch, in_channels, height, width).

    Raises:
        ValueError: the groups do not divide the channels, or the kernel is larger than the padded input.
    """
    batch, in_channels, in_height, in_width = input_shape
    top, bottom, left, right = padding
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide the {in_channels} input and {out_channels} output channels, got {groups}")
    padded = in_height + top + bottom, in_width + left + right
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel_size))
    if reach[0] > padded[0] or reach[1] > padded[1]:
        raise ValueError(
            f"kernel_size {kernel_size} with dilation {dilation} reaches {reach}, beyond the padded input {padded}"
        )
    return _core.Conv2dGeometry(
        batch=batch,
        in_channels=in_channels,
        in_height=in_height,
        in_width=in_width,
        out_channels=out_channels,
        kernel_height=kernel_size[0],
        kernel_width=kernel_size[1],
        stride_height=stride[0],
        stride_width=stride[1],
        pad_top=top,
        pad_bottom=bottom,
        pad_left=left,
        pad_right=right,
        dilation_height=dilation[0],
        dilation_width=dilation[1],
        groups=groups,
    )


def check_linear(input: Any, values: Any, bias: Optional[Any], pattern: Pattern) -> None:
    """ValueError unless the shapes fit: input (..., cols), values (nnz,), bias (rows,)."""
    shape = input.shape
    if not shape or shape[-1] != pattern.cols:
        raise ValueError(f"input must have {pattern.cols} features in its last dimension, got shape {tuple(shape)}")
    _check_weight(values, bias, pattern)


def check_conv2d(
    input: Any, values: Any, bias: Optional[Any], pattern: Pattern, kernel_size: Pair, groups: int
) -> None:
    """ValueError unless the shapes fit: input (batch, channels, height, width), values (nnz,), bias (rows,).

    The channels are cols / (kernel_height * kernel_width) * groups.
    """
    shape = input.shape
    area = kernel_size[0] * kernel_size[1]
    if pattern.cols % area:
        raise ValueError(f"kernel_size {kernel_size} does not divide the pattern's {pattern.cols} columns")
    channels = pattern.cols // area * groups
    if len(shape) != 4 or shape[1] != channels:
        raise ValueError(
            f"input must be (batch, {channels}, height, width) or ({channels}, height, width), got shape {tuple(shape)}"
        )
    _check_weight(values, bias, pattern)


def _check_weight(values: Any, bias: Optional[Any], pattern: Pattern) -> None:
    if values.shape != (pattern.nnz,):
        raise ValueError(f"values must have shape ({pattern.nnz},) for this pattern, got {tuple(values.shape)}")
    if bias is not None and bias.shape != (pattern.rows,):
        raise ValueError(f"bias must have shape ({pattern.rows},), got {tuple(bias.shape)}")
