"""The layers that a summary lists, and what each of them holds."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from ..nn import Prunable, SparseConv2d, SparseLinear, prunable_layers
from ..nn.sparse import Sparse

__all__ = ["SPARSE_KINDS", "density", "held", "layers_of"]

INDEX_BYTES = 4  # row_ptr and col_idx are int32
SPARSE_KINDS = {layer.__name__ for layer in (SparseConv2d, SparseLinear)}


def layers_of(model: nn.Module, all_layers: bool) -> List[Tuple[str, nn.Module]]:
    """(name, layer) of each prunable layer; with `all_layers` of every module that holds weights itself.

    Weights are parameters of two or more axes: those of a batch norm and biases are not. A ScriptModule hides its own.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: a parameter has no shape yet (nn.LazyLinear and its like).
    """
    prunable = prunable_layers(model)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"model must be initialized, but its parameter {name!r} has no shape: run it once")
    if not all_layers:
        return prunable
    return [(name, each) for name, each in model.named_modules() if isinstance(each, Prunable) or _weights(each)]


def held(name: str, layer: Any) -> Dict[str, Any]:
    """name, kind, shape, density, nnz, numel, dense_bytes, sparse_bytes of a layer.

    What is not prunable stays dense: its sparse bytes are its dense bytes. The meta device holds no masks: a masked
    layer there counts as not pruned.
    """
    if isinstance(layer, Prunable):
        shape = layer.weight_shape
        numel, value_bytes = shape.numel(), _stored(layer).element_size()
        nnz = layer.num_weight if isinstance(layer, Sparse) or not _stored(layer).is_meta else numel
        dense_bytes = numel * value_bytes
        sparse_bytes = nnz * (value_bytes + INDEX_BYTES) + (shape[0] + 1) * INDEX_BYTES
    else:
        weights = _weights(layer)
        shape = weights[0].shape if len(weights) == 1 else torch.Size()
        numel = nnz = sum(weight.numel() for weight in weights)
        dense_bytes = sparse_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    return {
        "name": name,
        "kind": type(layer).__name__,
        "shape": tuple(shape),
        "density": density(nnz, numel),
        "nnz": nnz,
        "numel": numel,
        "dense_bytes": dense_bytes,
        "sparse_bytes": sparse_bytes,
    }


def density(nnz: int, numel: int) -> float:
    """nnz / numel; 0.0 where there is nothing."""
    return nnz / numel if numel else 0.0


def _stored(layer: Any) -> Tensor:
    return layer.values if isinstance(layer, Sparse) else layer.weight


def _weights(module: nn.Module) -> List[Tensor]:
    """The weights of a module that is not prunable."""
    if isinstance(module, (ParametrizationList, torch.jit.ScriptModule)):
        return []  # the layer that a ParametrizationList belongs to has what it makes
    if isinstance(module, (_ConvNd, nn.Linear)):
        return [module.weight]  # also where a hook or a parametrization makes it
    return [each for each in module._parameters.values() if each is not None and each.dim() >= 2]
