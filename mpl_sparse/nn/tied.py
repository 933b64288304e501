"""Which weights a model uses in more than one place."""

from __future__ import annotations

import collections
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import torch
from torch import Tensor, nn

__all__ = ["other_owners"]


_COLLECTIONS = (list, tuple, set, frozenset, dict)


class _Place(NamedTuple):
    """Where a module has a tensor."""

    module: nn.Module
    name: str
    tensor: Tensor


def other_owners(model: nn.Module) -> Dict[nn.Module, str]:
    """For each module whose weight is also another parameter or buffer, what it is called there.

    Two tensors that have numbers in the same memory (`b.weight.data = a.weight.data`, a transposed view of it, a part
    of it) count as one. Modules in lists, tuples, sets and dicts that torch does not know of are looked at, too.
    """
    tied: Dict[nn.Module, str] = {}
    for one, other in _pairs(list(_places(model))):
        for this, that in ((one, other), (other, one)):
            if this.name.rpartition(".")[2].startswith("weight"):
                tied.setdefault(this.module, f"its weight is also {that.name}")
    return tied


def _places(model: nn.Module) -> Iterator[_Place]:
    for name, module in _all_modules(model):
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    yield _Place(module, f"{name}.{key}" if name else key, tensor)


def _all_modules(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Each module once, with its name: first those that torch knows, then those in plain collections."""
    known: Set[nn.Module] = set()
    queue = collections.deque([("", model)])
    while queue:
        prefix, root = queue.popleft()
        hidden: List[Tuple[str, nn.Module]] = []
        for name, module in root.named_modules(prefix=prefix):
            if module not in known:
                known.add(module)
                yield name, module
                for key, value in vars(module).items():
                    if key != "_modules":
                        hidden += _modules_in(f"{name}.{key}" if name else key, value)
        queue.extend(hidden)


def _modules_in(name: str, value: Any, depth: int = 3) -> Iterator[Tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield name, value
    elif depth and isinstance(value, _COLLECTIONS):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, (nn.Module, *_COLLECTIONS)):  # a name for each word of a vocabulary would take long
                yield from _modules_in(f"{name}[{key!r}]", inner, depth - 1)


def _pairs(places: List[_Place]) -> Iterator[Tuple[_Place, _Place]]:
    """The pairs of places that have numbers in common."""
    same: Dict[int, _Place] = {}
    by_address: List[Tuple[int, int, _Place]] = []
    for place in places:
        first = same.setdefault(id(place.tensor), place)
        extent = _extent(place.tensor)
        if first is not place:
            yield first, place
        elif extent is not None:
            by_address.append((*extent, place))
    by_address.sort(key=lambda each: each[:2])
    for i, (_, end, place) in enumerate(by_address):
        later = i + 1
        while later < len(by_address) and by_address[later][0] < end:
            other = by_address[later][2]
            if _meet(place.tensor, other.tensor):
                yield place, other
            later += 1


def _extent(tensor: Tensor) -> Optional[Tuple[int, int]]:
    """The addresses of its first number and behind its last one; None if it is not a plain tensor in memory."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_meta or not tensor.numel():
        return None
    return (tensor.data_ptr(), _end(tensor)) if tensor.data_ptr() else None


def _meet(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors whose extents overlap have a number in common: slices by columns, say, have none."""
    size = one.element_size()
    if size != other.element_size() or one.is_contiguous() and other.is_contiguous():
        return True
    origin, end = min(one.data_ptr(), other.data_ptr()), max(_end(one), _end(other))
    taken = torch.zeros((end - origin) // size, dtype=torch.bool, device="cpu")
    first, second = (
        taken.as_strided(each.shape, each.stride(), (each.data_ptr() - origin) // size) for each in (one, other)
    )
    first.fill_(True)
    return bool(second.any())


def _end(tensor: Tensor) -> int:
    """The address behind its last number."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()
