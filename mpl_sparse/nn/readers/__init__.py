"""Which layers are more to the rest of a model than something it calls: found by reading the code of its forwards.

A masked or sparse layer computes the same as the dense one when it is called. It cannot stand in for it where other
code computes with `layer.weight` itself, as nn.MultiheadAttention does, or asks `isinstance(layer, nn.Linear)`. No
forward is run: each one, and the functions that it reaches, are followed through their syntax trees, an expression
standing for the objects of the model that it may be. Of a function without source only the names in it are known.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Dict, Iterator

import torch
from torch import nn

from ..fused_path import calls_its_layers
from ..lstm import PrunableLSTM
from .functions import is_of_torch
from .objects import these
from .walk import Becomes, Uses, Walk

__all__ = ["other_uses"]

_CALL_ONLY = {nn.Sequential, nn.ModuleList, nn.ModuleDict}


def other_uses(model: nn.Module, becomes: Becomes) -> Dict[nn.Module, str]:
    """The layers of `model` that code of other modules uses in ways that only the dense layer knows, and what it does.

    Args:
        becomes: the types that a layer may be converted to; empty for a module that stays as it is.
    """
    uses = Uses(model, becomes)
    for module in model.modules():
        for hook in _hooks(module):
            if not is_of_torch(hook):
                Walk(None, uses).run(hook, (these([module]),))
        if isinstance(module, torch.jit.ScriptModule):
            continue  # compiled: nothing in it is converted
        if calls_its_layers(module):
            Walk(module, uses).run(vars(module).get("activation"))
        known = type(module) in _CALL_ONLY or isinstance(module, PrunableLSTM) or calls_its_layers(module)
        if known or becomes(module) or is_of_torch(type(module)) and not module._modules:
            continue  # a layer's own forward is what the conversion takes over
        forward = vars(module).get("forward", type(module).forward)
        own = these([module])
        Walk(module, uses).run(forward, () if isinstance(forward, MethodType) else (own,))
        for name in ("__call__", "train"):  # some multiply weights beforehand when they change to eval mode
            method = getattr(type(module), name)
            if method is not getattr(nn.Module, name):
                Walk(module, uses).run(method, (own,))
    return uses.found


def _hooks(module: nn.Module) -> Iterator[Any]:
    for table in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        yield from getattr(module, table).values()
