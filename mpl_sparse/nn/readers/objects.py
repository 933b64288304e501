"""The objects of a model that an expression may stand for."""

from __future__ import annotations

from types import BuiltinMethodType, MethodType
from typing import Any, Dict, FrozenSet, Iterable, List, Tuple

import torch
from torch import Tensor, nn

from .functions import is_python

__all__ = ["COLLECTIONS", "NONE", "Object", "Objects", "Scope", "inside", "modules_among", "these", "union"]

COLLECTIONS = (dict, list, tuple, set, frozenset)
_TRIVIAL = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.Size)


class Object:
    """An object of the model, equal to itself alone."""

    __slots__ = ("it", "_identity")

    def __init__(self, it: Any) -> None:
        self.it = it
        self._identity: Tuple[Any, ...] = (id(it),)
        if isinstance(it, MethodType):  # each look-up of a method makes another object of it
            self._identity = (id(it.__func__), id(it.__self__))
        elif isinstance(it, BuiltinMethodType):
            self._identity = (it.__name__, id(it.__self__))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object) and other._identity == self._identity

    def __hash__(self) -> int:
        return hash(self._identity)


Objects = FrozenSet[Object]
Scope = Dict[str, Objects]
NONE: Objects = frozenset()


def these(objects: Iterable[Any]) -> Objects:
    kept = (each for each in objects if not isinstance(each, _TRIVIAL))
    return frozenset(Object(each) for each in kept if not isinstance(each, Tensor) or isinstance(each, nn.Parameter))


def union(parts: Iterable[Objects]) -> Objects:
    return frozenset().union(*parts)


def inside(objects: Objects) -> Objects:
    """The objects themselves, which may be what a collection held, and what is in them."""
    found: List[Any] = []
    for each in objects:
        if isinstance(each.it, nn.Module):
            own = any(is_python(getattr(type(each.it), name, None)) for name in ("__iter__", "__getitem__"))
            found += each.it.modules() if own else each.it._modules.values()
        elif isinstance(each.it, dict):
            found += each.it.values()
        elif isinstance(each.it, COLLECTIONS):
            found += each.it
    return objects | these(found)


def modules_among(objects: Objects, deep: bool = True) -> List[nn.Module]:
    """The modules among objects, and with `deep` all that are in them."""
    modules = [each.it for each in objects if isinstance(each.it, nn.Module)]
    return [inner for module in modules for inner in module.modules()] if deep else modules
