"""Which weights a model uses in more than one place."""

from __future__ import annotations

import collections
from typing import Any, Dict, List, Tuple

from torch import nn

__all__ = ["other_owners"]


def other_owners(model: nn.Module) -> Dict[nn.Module, str]:
    """For each module whose weight is also a parameter of another one, what it is called there.

    Two parameters in the same memory (`b.weight.data = a.weight.data`, or a transposed view of it) count as one.
    """
    places: Dict[Any, List[Tuple[nn.Module, str]]] = collections.defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                places[_identity(parameter)].append((module, f"{name}.{key}" if name else key))
    tied = {}
    for owners in places.values():
        for module, name in owners:
            others = [other for owner, other in owners if owner is not module]
            if others and name.rpartition(".")[2].startswith("weight"):
                tied[module] = f"its weight is also {others[0]}"
    return tied


def _identity(parameter: nn.Parameter) -> Any:
    address = 0 if parameter.is_meta else parameter.data_ptr()
    return (address, parameter.numel()) if address else id(parameter)
