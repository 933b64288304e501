"""The weight of a dense layer: the parameter that holds it, and the mask that torch.nn.utils.prune has put on it."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

__all__ = ["DenseWeight", "dense_parameters", "dense_weight", "read_pruned_weight", "settings_without_pruning"]


class DenseWeight(NamedTuple):
    """`parameter`, under its `name` in the layer, counts where `mask` is True; everywhere if that is None."""

    name: str
    parameter: nn.Parameter
    mask: Optional[Tensor]


def dense_weight(layer: nn.Module) -> DenseWeight:
    """The weight of an nn.Conv2d or nn.Linear.

    Raises:
        ValueError: it is something else than a plain parameter, or one that torch.nn.utils.prune has masked; says what.
    """
    if is_parametrized(layer):
        raise ValueError("it is parametrized: call torch.nn.utils.parametrize.remove_parametrizations first")
    parameters, buffers = layer._parameters, layer._buffers
    found = DenseWeight("weight", parameters.get("weight"), None)  # type: ignore[arg-type]
    if found.parameter is None and _pruning_hook(layer._forward_pre_hooks) is not None:
        mask = buffers["weight_mask"]
        found = DenseWeight("weight_orig", parameters["weight_orig"], mask != 0)
        if not torch.equal(found.mask.to(mask.dtype), mask):
            raise ValueError("its mask from torch.nn.utils.prune has other numbers than 0 and 1")
    if found.parameter is None:
        raise ValueError("its weight is no parameter but made by a hook (weight_norm, spectral_norm): remove it first")
    if is_lazy(found.parameter):
        raise ValueError("it is lazy, its shape is not known yet: run one forward first")
    if type(found.parameter) is not nn.Parameter:
        raise ValueError(f"its weight is no plain tensor but a {type(found.parameter).__name__}")
    return found


def dense_parameters(layer: nn.Module, weight: DenseWeight) -> Dict[str, Optional[nn.Parameter]]:
    """The layer's parameters in their order, the weight's under the name "weight"."""
    return {"weight" if name == weight.name else name: value for name, value in layer._parameters.items()}


def settings_without_pruning(settings: Dict[str, Any]) -> Dict[str, Any]:
    """The attributes of a layer without what torch.nn.utils.prune needs to make its weight; tables stay shared."""
    hooks = settings["_forward_pre_hooks"]
    key = _pruning_hook(hooks)
    if key is None:
        return settings
    left = type(hooks)((name, hook) for name, hook in hooks.items() if name != key)
    return {**{name: value for name, value in settings.items() if name != "weight"}, "_forward_pre_hooks": left}


def read_pruned_weight(local: Dict[str, Any]) -> None:
    """In a layer's state_dict, what torch.nn.utils.prune saved becomes `weight` and `mask`."""
    if "weight_orig" in local and "weight_mask" in local:
        local.update(weight=local.pop("weight_orig"), mask=local.pop("weight_mask") != 0)


def _pruning_hook(hooks: Dict[int, Any]) -> Optional[int]:
    for key, hook in hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
            return key
    return None
