"""Prunable 2-D convolutions: masked (DenseConv2d) and sparse (SparseConv2d)."""

from __future__ import annotations

from typing import Any, List, Literal, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..autograd import dense_conv2d, eager_conv2d, is_recorded, traced_conv2d
from ..pattern import Pattern
from .masked import Masked
from .sparse import Sparse
from .symbolic import called_as_one, is_symbolic

__all__ = ["DenseConv2d", "SparseConv2d"]

fx.wrap("traced_conv2d")  # one call in a graph of torch.fx

IntOrPair = Union[int, Tuple[int, int]]


class DenseConv2d(Masked, nn.Conv2d):
    """nn.Conv2d with a bool buffer `mask`: it computes with the weight where the mask is True. Same arguments."""

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d) -> DenseConv2d:
        """The masked form of `conv`: the same Parameter objects, settings and hooks; all weights remain.

        Raises:
            TypeError: `conv` is not an nn.Conv2d.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
        return cls._from_layer(conv)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in_channels, height, width) or without the batch -> the same with out_channels."""
        if is_symbolic(self, input):
            return called_as_one(self, input)
        return self._conv_forward(input, self.masked_weight, self.bias)

    def to_sparse(self) -> SparseConv2d:
        """The sparse form: what the mask drops and weights that are exactly zero now are gone."""
        return SparseConv2d.from_dense(self)


class SparseConv2d(Sparse):
    """2-D convolution that stores and computes only its remaining weights.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in nn.Conv2d. It computes on the CPU, in float32 and float64; values, inputs and outputs of float16 and
            bfloat16 are computed in float32 and rounded once.
        pattern: the positions of the weights, of the shape (out_channels, in_channels / groups, kernel_height,
            kernel_width); all of them if None. Values start as those of an nn.Conv2d.

    Shape:
        input (batch, in_channels, height, width) or (in_channels, height, width), output the same with out_channels.

    Raises:
        TypeError, ValueError: an argument that nn.Conv2d refuses, or a pattern of another type or shape.
    """

    in_channels: int
    out_channels: int
    kernel_size: Tuple[int, int]
    stride: Tuple[int, int]
    padding: Union[str, Tuple[int, int]]
    dilation: Tuple[int, int]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: List[int]  # nn.Conv2d's: left, right, top, bottom

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Union[str, IntOrPair] = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        *,
        pattern: Optional[Pattern] = None,
    ) -> None:
        dense = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._build(dense, Pattern.from_mask(np.ones(dense.weight.shape, bool)) if pattern is None else pattern)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, pattern: Optional[Pattern] = None) -> SparseConv2d:
        """The sparse form of `layer`, with copies of its values and its settings, hooks and requires_grad.

        Args:
            layer: nn.Conv2d or DenseConv2d.
            pattern: the positions to keep; if None, those that the mask keeps and whose weight is not zero.

        Raises:
            TypeError: `layer` is not an nn.Conv2d, or `pattern` not a Pattern.
            ValueError: `pattern` has another shape than the weight.
        """
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"layer must be an nn.Conv2d, got {type(layer).__name__}")
        return cls._from_layer(layer, pattern)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in_channels, height, width) or without the batch -> the same with out_channels."""
        recorded = is_recorded() or not isinstance(input, Tensor)
        if recorded and is_symbolic(self, input):
            return called_as_one(self, input)
        left, right, top, bottom = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            input = F.pad(input, (left, right, top, bottom), self.padding_mode)
            left = right = top = bottom = 0
        sizes = self.kernel_size, self.stride, (top, bottom, left, right), self.dilation, self.groups
        if recorded and torch.onnx.is_in_onnx_export():
            return dense_conv2d(input, self.values, self.bias, self._pattern, *sizes, self.activation)
        if recorded:
            cols = self.weight_shape[1:].numel()
            return traced_conv2d(
                input, self.values, self.bias, self.row_ptr, self.col_idx, cols, *sizes, self.activation
            )
        values, bias = self._weights()
        return eager_conv2d(input, values, bias, self._pattern, *sizes, self.activation)

    def to_dense(self) -> DenseConv2d:
        """The masked form: the mask is the pattern, pruned weights are 0. ValueError if an activation is fused."""
        return self._densified(DenseConv2d)

    def extra_repr(self) -> str:
        """The arguments as nn.Conv2d prints them, and whether there is a bias."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        text += f", bias={self.bias is not None}"
        return text if self.activation == "none" else text + f", activation={self.activation}"
