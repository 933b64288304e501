"""Where a prunable layer, masked or sparse, has its weights."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Set

import torch
from torch import Tensor, nn

from ..nn import SparseConv2d, SparseLinear, carry, prunable_layers
from ..pattern import Pattern

__all__ = [
    "POSITIONS",
    "as_stored",
    "at_remaining",
    "ids_of_positions",
    "is_sparse",
    "pattern_from",
    "pattern_state",
    "positions",
    "stored",
]

POSITIONS = ("mask", "row_ptr", "col_idx")  # buffers that say where the weights of a prunable layer are


def is_sparse(layer: nn.Module) -> bool:
    """Whether the layer stores its remaining weights only."""
    return isinstance(layer, (SparseConv2d, SparseLinear))


def stored(layer: Any) -> nn.Parameter:
    """The Parameter that holds the weights: `values` (nnz,) of a sparse layer, the full `weight` of a masked one."""
    return layer.values if is_sparse(layer) else layer.weight


def at_remaining(layer: Any, tensor: Tensor) -> Tensor:
    """Of a tensor shaped as `stored(layer)`, the entries of the remaining weights, (num_weight,), row by row."""
    return tensor if is_sparse(layer) else tensor[layer.mask]


def as_stored(layer: Any, tensor: Tensor, pattern: Optional[Pattern]) -> Tensor:
    """One number for each weight, shaped as `stored(layer)`, from a dense tensor without a pattern, or from the numbers
    (nnz,) at a pattern. Positions that it does not have get 0.
    """
    if pattern is None:
        return tensor.reshape(-1)[positions(layer)] if is_sparse(layer) else tensor
    if is_sparse(layer):
        return tensor if pattern is layer.pattern else carry(tensor, pattern, layer.pattern)
    dense = tensor.new_zeros(pattern.shape)
    dense.view(-1)[torch.from_numpy(pattern.flat_positions())] = tensor
    return dense


def positions(layer: Any) -> Tensor:
    """int64 (num_weight,): where the remaining weights stand in the flattened weight, increasing."""
    if is_sparse(layer):
        return torch.from_numpy(layer.pattern.flat_positions())
    return layer.mask.reshape(-1).nonzero().squeeze(1)


def ids_of_positions(model: nn.Module) -> Set[int]:
    """The ids of the buffers `POSITIONS` of the prunable layers: what no forward writes. Others may have such names."""
    return {id(layer._buffers.get(name)) for _, layer in prunable_layers(model) for name in POSITIONS}


def pattern_state(pattern: Pattern) -> Dict[str, Any]:
    """A pattern as tensors and numbers, which any file can hold and torch.load takes without running code."""
    row_ptr, col_idx = torch.tensor(pattern.row_ptr), torch.tensor(pattern.col_idx)
    return {"row_ptr": row_ptr, "col_idx": col_idx, "shape": list(pattern.shape)}


def pattern_from(state: Mapping[str, Any]) -> Pattern:
    """The pattern of a `pattern_state`."""
    return Pattern.from_csr(state["row_ptr"], state["col_idx"], state["shape"])
