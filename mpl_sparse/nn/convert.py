"""Conversion of whole models: plain -> prunable (in place), masked <-> sparse (into a new model)."""

from __future__ import annotations

import collections
import copy
import warnings
from typing import Any, Dict, List, Set, Tuple

from torch import nn

from .conv2d import DenseConv2d, SparseConv2d
from .linear import DenseLinear, SparseLinear
from .prunable_layer import Prunable

__all__ = ["prunable", "prunable_layers", "to_dense", "to_sparse"]

_MASKED: Dict[type, Any] = {nn.Conv2d: DenseConv2d.from_conv2d, nn.Linear: DenseLinear.from_linear}


def prunable(model: nn.Module) -> nn.Module:
    """Make each nn.Conv2d and nn.Linear of `model` prunable, in place, with the very same Parameter objects.

    Subclasses of the two are left alone, for they may compute something else. A module that stands in several places is
    converted once.

    Returns:
        `model`, or the converted layer if the model itself is one.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: a layer's weight is made by a hook (torch.nn.utils.prune, weight_norm); the model stays as it is.
    """
    check_module(model)
    converted = {module: _MASKED[type(module)](module) for module in model.modules() if type(module) in _MASKED}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in converted:
                parent._modules[name] = converted[child]
    return converted.get(model, model)


def prunable_layers(model: nn.Module) -> List[Tuple[str, Any]]:
    """(name, layer) of each DenseConv2d, DenseLinear, SparseConv2d and SparseLinear of `model`, each layer once.

    Raises:
        TypeError: `model` is not an nn.Module.
    """
    check_module(model)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Prunable)]


def to_sparse(model: nn.Module) -> nn.Module:
    """A copy of `model` whose masked layers are sparse. The model itself stays as it is.

    A masked layer that shares a parameter with another module is copied as it is, with a warning: a sparse and a dense
    layer cannot share a weight.

    Raises:
        TypeError: `model` is not an nn.Module.
    """
    check_module(model)
    owners: Dict[Any, Set[nn.Module]] = collections.defaultdict(set)
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[parameter].add(module)
    replaced = {}
    for name, module in model.named_modules():
        if not isinstance(module, (DenseConv2d, DenseLinear)):
            continue
        if any(len(owners[parameter]) > 1 for parameter in module._parameters.values() if parameter is not None):
            warnings.warn(f"{name} stays dense: it shares a parameter with another module", stacklevel=2)
        else:
            replaced[id(module)] = module.to_sparse()
    # deepcopy takes what its memo holds for a copy made already
    return copy.deepcopy(model, replaced)


def to_dense(model: nn.Module) -> nn.Module:
    """A copy of `model` whose sparse layers are masked: mask = pattern. The model itself stays as it is.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: `fuse` has made an activation a part of one of its layers.
    """
    check_module(model)
    replaced = {
        id(module): module.to_dense() for module in model.modules() if isinstance(module, (SparseConv2d, SparseLinear))
    }
    return copy.deepcopy(model, replaced)


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
