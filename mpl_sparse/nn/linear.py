"""Prunable linear layers: masked (DenseLinear) and sparse (SparseLinear)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..autograd import dense_linear, eager_linear, is_recorded, traced_linear
from ..pattern import Pattern
from .masked import Masked
from .sparse import Sparse
from .symbolic import called_as_one, is_symbolic

__all__ = ["DenseLinear", "SparseLinear"]

fx.wrap("traced_linear")  # one call in a graph of torch.fx


class DenseLinear(Masked, nn.Linear):
    """nn.Linear with a bool buffer `mask`: it computes with the weight where the mask is True. Same arguments."""

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> DenseLinear:
        """The masked form of `linear`: the same Parameter objects, settings and hooks; all weights remain.

        Raises:
            TypeError: `linear` is not an nn.Linear.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be an nn.Linear, got {type(linear).__name__}")
        return cls._from_layer(linear)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if is_symbolic(self, input):
            return called_as_one(self, input)
        return F.linear(input, self.masked_weight, self.bias)

    def to_sparse(self) -> SparseLinear:
        """The sparse form: what the mask drops and weights that are exactly zero now are gone."""
        return SparseLinear.from_dense(self)


class SparseLinear(Sparse):
    """Linear layer that stores and computes only its remaining weights.

    Args:
        in_features, out_features, bias, device, dtype: as in nn.Linear. It computes on the CPU, in float32 and float64;
            values, inputs and outputs of float16 and bfloat16 are computed in float32 and rounded once.
        pattern: the positions of the weights, of shape (out_features, in_features); all of them if None. Values start
            as those of an nn.Linear.

    Shape:
        input (..., in_features), output (..., out_features).

    Raises:
        TypeError, ValueError: an argument that nn.Linear refuses, or a pattern of another type or shape.
    """

    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        *,
        pattern: Optional[Pattern] = None,
    ) -> None:
        dense = nn.Linear(in_features, out_features, bias, device, dtype)
        self._build(dense, Pattern.from_mask(np.ones(dense.weight.shape, bool)) if pattern is None else pattern)

    @classmethod
    def from_dense(cls, layer: nn.Linear, pattern: Optional[Pattern] = None) -> SparseLinear:
        """The sparse form of `layer`, with copies of its values and its settings, hooks and requires_grad.

        Args:
            layer: nn.Linear or DenseLinear.
            pattern: the positions to keep; if None, those that the mask keeps and whose weight is not zero.

        Raises:
            TypeError: `layer` is not an nn.Linear, or `pattern` not a Pattern.
            ValueError: `pattern` has another shape than the weight.
        """
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
        return cls._from_layer(layer, pattern)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if is_recorded() or not isinstance(input, Tensor):
            if is_symbolic(self, input):
                return called_as_one(self, input)
            if torch.onnx.is_in_onnx_export():
                return dense_linear(input, self.values, self.bias, self._pattern, self.activation)
            positions = self.row_ptr, self.col_idx, self.in_features
            return traced_linear(input, self.values, self.bias, *positions, self.activation)
        values, bias = self._weights()
        return eager_linear(input, values, bias, self._pattern, self.activation)

    def to_dense(self) -> DenseLinear:
        """The masked form: the mask is the pattern, pruned weights are 0. ValueError if an activation is fused."""
        return self._densified(DenseLinear)

    def extra_repr(self) -> str:
        """The arguments as nn.Linear prints them."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text if self.activation == "none" else text + f", activation={self.activation}"
