"""The two operations in torch's own words, for exporters that know no others: dense, of a weight made by a scatter.

What they write down are the values and their positions; the dense weight is made where the file is read. There a pruned
weight is a zero like any other: a NaN in the input is not kept from it.
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Pads, Pair
from ..pattern import Pattern

__all__ = ["dense_conv2d", "dense_linear"]


def dense_linear(
    input: Tensor, values: Tensor, bias: Optional[Tensor], pattern: Pattern, activation: str = "none"
) -> Tensor:
    """As `operations.linear`."""
    return _activated(F.linear(input, _weight(values, pattern), bias), activation)


def dense_conv2d(
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
    """As `operations.conv2d`."""
    top, bottom, left, right = padding
    if (top, left) != (bottom, right):
        input = F.pad(input, (left, right, top, bottom))
        top = left = 0
    weight = _weight(values, pattern).unflatten(1, (-1, *kernel_size))
    return _activated(F.conv2d(input, weight, bias, stride, (top, left), dilation, groups), activation)


def _weight(values: Tensor, pattern: Pattern) -> Tensor:
    """The dense matrix (rows, cols) of the pattern."""
    positions = torch.from_dlpack(pattern.flat_positions())  # of from_numpy torch.jit warns
    zeros = values.new_zeros(1).expand(pattern.rows * pattern.cols)  # one zero in the file, not all of them
    return zeros.scatter(0, positions, values).view(pattern.rows, pattern.cols)


def _activated(output: Tensor, activation: str) -> Tensor:
    return torch.relu(output) if activation == "relu" else output
