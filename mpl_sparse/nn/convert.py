"""Conversion of whole models: plain -> prunable (in place), masked <-> sparse (into a new model)."""

from __future__ import annotations

import copy
import numbers
import warnings
from fnmatch import fnmatchcase
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .conv2d import DenseConv2d, SparseConv2d
from .conversions import Conversion, remember
from .dense_weight import dense_weight
from .fused_path import leave_fused_path
from .linear import DenseLinear, SparseLinear
from .lstm import DenseLSTM, PrunableLSTM, SparseLSTM
from .masked import Masked
from .prunable_layer import STORAGE, Prunable
from .readers import other_uses
from .sparse import Sparse
from .tied import other_owners

__all__ = ["prunable", "prunable_layers", "to_dense", "to_sparse"]

Patterns = Union[str, Sequence[str]]
Row = Tuple[str, nn.Module, str]  # name, layer, why


class _Kind(NamedTuple):
    plain: type
    masked: Any
    sparse: Any


_KINDS = (
    _Kind(nn.Conv2d, DenseConv2d, SparseConv2d),
    _Kind(nn.Linear, DenseLinear, SparseLinear),
    _Kind(nn.LSTM, DenseLSTM, SparseLSTM),
)
_COMPUTES_IN = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def prunable(model: nn.Module, exclude: Patterns = ()) -> nn.Module:
    """Make each nn.Conv2d, nn.Linear and nn.LSTM of `model` prunable, in place: the very layers become `DenseConv2d`,
    `DenseLinear` and `DenseLSTM`, with the same Parameter objects, names, hooks and flags.

    (The weights of an LSTM move into linear layers that are its children: `ih_l0.weight` for `weight_ih_l0`, ...)

    Masks of torch.nn.utils.prune become the layers' own. What cannot be prunable without changing what the model
    computes stays as it is, and `conversion_report(model)` tells which layers, and why: subclasses with a forward of
    their own, weights that are tied, parametrized, made by a hook or no plain tensors, and layers whose weight or type
    other code of the model looks at (nn.MultiheadAttention reads that of out_proj). Such code is found in the source of
    the model's forwards; no forward is run.

    Args:
        exclude: names of layers or of modules that hold layers, or patterns of them such as "*.downsample.*" (fnmatch):
            they stay dense.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not an nn.Module, or `exclude` not a string or a sequence of them.
        ValueError: a layer is lazy and has no shape yet, or a pattern of `exclude` matches nothing; the model stays as
            it is.
    """
    check_module(model)
    excluded = Excluded(model, exclude)
    for name, module in model.named_modules():
        if isinstance(module, (nn.LazyLinear, nn.LazyConv2d)) and module.has_uninitialized_params():
            raise ValueError(f"model: its layer {name!r} is lazy, its shape is not known yet: run one forward first")
    uses, owners = other_uses(model, _becomes), other_owners(model)
    rows, layers = [], []
    for name, module in model.named_modules():
        was, why = type(module).__name__, "prunable already"
        if not isinstance(module, Prunable):
            if not _has_weight(module):
                continue
            why = excluded.why(module) or _why_not_prunable(module) or uses.get(module) or owners.get(module) or ""
            if not why:
                why = "masked, as by torch.nn.utils.prune" if _is_pruned_by_torch(module) else "masked"
                layers.append(module)
        rows.append((name, module, was, why))
    for layer in layers:
        _kind_of(layer).masked.make_prunable(layer)  # type: ignore[union-attr]
    leave_fused_path(model)
    remember(model, [Conversion(name, was, type(module).__name__, why) for name, module, was, why in rows])
    return model


def prunable_layers(model: nn.Module) -> List[Tuple[str, Any]]:
    """(name, layer) of each DenseConv2d, DenseLinear, SparseConv2d and SparseLinear of `model`, each layer once.

    Raises:
        TypeError: `model` is not an nn.Module.
    """
    check_module(model)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Prunable)]


def to_sparse(model: nn.Module, min_sparsity: float = 0.0, exclude: Patterns = ()) -> nn.Module:
    """A copy of `model` whose masked layers, and those that torch.nn.utils.prune has masked, are sparse. The model
    itself stays as it is.

    `conversion_report` of the copy tells what became of each layer, and why. A masked layer that shares its weight with
    another module, or whose weight or type other code of the model looks at, stays as it is, with a warning.

    Weights that are exactly zero now are gone, whatever the mask says. Where that leaves a layer none, as in a head
    that starts at zero, it warns: such a layer could no longer learn. Exclude it, or give it numbers first.

    Args:
        min_sparsity: layers with a smaller share of pruned weights stay dense.
        exclude: names or patterns of layers that stay dense, as in `prunable`.

    Raises:
        TypeError: `model` is not an nn.Module, `min_sparsity` not a number, or `exclude` not a string or a sequence.
        ValueError: `min_sparsity` is not in [0, 1], or a pattern of `exclude` matches nothing.
    """
    check_module(model)
    least = check_min_sparsity(min_sparsity)
    excluded = Excluded(model, exclude)
    uses, owners = other_uses(model, _becomes), other_owners(model)
    copies = _Copies(model)
    rows: List[Row] = []
    for name, module in model.named_modules():
        if isinstance(module, Sparse):
            rows.append((name, module, "sparse already"))
        elif _has_weight(module):
            why = excluded.why(module) or _why_not_prunable(module)
            if not why:
                why = uses.get(module) or owners.get(module)
                if why and isinstance(module, Masked):
                    warnings.warn(f"{name} stays dense: {why}", stacklevel=2)
            why = why or _why_not_sparse(module)
            if not why:
                sparse = _kind_of(module).sparse.from_dense(module)  # type: ignore[union-attr]
                pruned = _pruned_share(sparse)
                why = f"{pruned:.1%} pruned"
                if isinstance(module, Masked) and sparse.num_weight == 0 < module.num_weight:
                    why += ", as all weights that its mask keeps are zero"
                    warnings.warn(f"{name} has no weight left to train: all that its mask keeps are zero", stacklevel=2)
                if pruned < least:
                    why += f", less than min_sparsity={min_sparsity}"
                else:
                    copies.take(module, sparse)
            rows.append((name, module, why))
    return copies.finish(rows)


def to_dense(model: nn.Module) -> nn.Module:
    """A copy of `model` whose sparse layers are masked: mask = pattern. The model itself stays as it is.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: `fuse` has made an activation a part of one of its layers, or one of them is parametrized.
    """
    check_module(model)
    copies = _Copies(model)
    rows: List[Row] = []
    for name, module in model.named_modules():
        if isinstance(module, (SparseConv2d, SparseLinear)):
            base = SparseConv2d if isinstance(module, SparseConv2d) else SparseLinear
            if _computes_as(module, base):
                copies.take(module, module.to_dense())
                rows.append((name, module, "masked"))
            else:
                rows.append((name, module, f"a subclass of {base.__name__} that may compute otherwise"))
        elif isinstance(module, Masked):
            rows.append((name, module, "masked already"))
    return copies.finish(rows)


class _Copies:
    """A deep copy of a model in which some layers are others, made beforehand."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.memo: Dict[int, Any] = {}  # deepcopy takes what its memo holds for a copy made already
        self.replacements: List[nn.Module] = []

    def take(self, layer: nn.Module, replacement: nn.Module) -> None:
        """Let `replacement` stand for `layer`. A bias stays tied with those of other layers, a buffer shared."""
        for old, new in ((layer._parameters, replacement._parameters), (layer._buffers, replacement._buffers)):
            for name, tensor in old.items():
                if tensor is not None and name in new:
                    new[name] = self.memo.setdefault(id(tensor), new[name])
        # a list of parameters, or an optimizer, that the model keeps has the values where it had the weight
        self.memo[id(_stored(layer))] = _stored(replacement)
        self.memo[id(layer)] = replacement
        self.replacements.append(replacement)

    def finish(self, rows: List[Row]) -> nn.Module:
        for module in self.model.modules():
            for value in vars(module).values():
                if isinstance(value, Tensor) and not value.is_leaf:  # made by a hook; deepcopy would refuse it
                    self.memo[id(value)] = value.detach().clone()
        for replacement in self.replacements:  # hooks, modules and whatever else stands in the layer's attributes
            settings = {name: value for name, value in vars(replacement).items() if name not in STORAGE}
            vars(replacement).update(copy.deepcopy(settings, self.memo))
        copied = copy.deepcopy(self.model, self.memo)
        leave_fused_path(copied)
        for module in copied.modules():
            if type(module) in (DenseLSTM, SparseLSTM):
                kinds = {type(child) for child in module.children()}
                module.__class__ = SparseLSTM if SparseLinear in kinds else DenseLSTM
        found = dict(copied.named_modules())
        now = [type(found.get(name, module)).__name__ for name, module, _ in rows]
        remember(copied, [Conversion(name, type(m).__name__, kind, why) for (name, m, why), kind in zip(rows, now)])
        return copied


class Excluded:
    """The layers that the caller wants left alone."""

    def __init__(self, model: nn.Module, exclude: Patterns) -> None:
        patterns = (exclude,) if isinstance(exclude, str) else exclude
        if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(p, str) for p in patterns):
            raise TypeError(f"exclude must be a name or a sequence of names and patterns, got {exclude!r}")
        self._why: Dict[nn.Module, str] = {}
        matched = set()
        for name, module in model.named_modules(remove_duplicate=False):
            for pattern in patterns:
                if fnmatchcase(name, pattern):
                    matched.add(pattern)
                    for inner in module.modules():
                        self._why.setdefault(inner, f"excluded by {pattern!r}")
        for pattern in patterns:
            if pattern not in matched:
                raise ValueError(f"exclude: {pattern!r} matches no module of the model")

    def why(self, module: nn.Module) -> Optional[str]:
        return self._why.get(module)


def _has_weight(module: nn.Module) -> bool:
    """Whether it holds a matrix of weights itself, and not in a part of it: what a report tells of."""
    return (
        not isinstance(module, PrunableLSTM)
        and isinstance(module, tuple(kind.plain for kind in _KINDS))
        or any(each is not None and not is_lazy(each) and each.dim() >= 2 for each in module._parameters.values())
    )


# What a subclass may define and still compute as its base does.
_BUILDING = {"__init__", "__repr__", "reset_parameters", "extra_repr"}
_COMPUTING = {"forward", "_conv_forward"}  # what an instance may have of its own, in the place of its class's
_ABOUT = {"__module__", "__qualname__", "__doc__", "__annotations__", "__annotate_func__", "__annotations_cache__"}
_ABOUT |= {"__static_attributes__", "__firstlineno__", "__constants__", "__parameters__", "__classcell__"}


def _kind_of(module: nn.Module) -> Optional[_Kind]:
    """The kind of a layer that computes as its kind does; None for all others."""
    for kind in _KINDS:
        base = kind.masked if isinstance(module, kind.masked) else kind.plain
        if isinstance(module, base) and _computes_as(module, base):
            return kind
    return None


def _computes_as(module: nn.Module, base: type) -> bool:
    """Whether it computes as its base class does, as far as its class and its own attributes tell."""
    bases = type(module).__mro__
    more = bases[: bases.index(base)]
    return all(vars(cls).keys() <= _BUILDING | _ABOUT for cls in more) and not vars(module).keys() & _COMPUTING


def _stored(layer: nn.Module) -> nn.Parameter:
    """The parameter that holds its weight."""
    return layer.values if isinstance(layer, Sparse) else dense_weight(layer).parameter


def _pruned_share(layer: Sparse) -> float:
    """1 - density, rounded once: 0.1 where one of ten weights is pruned."""
    numel = layer.weight_shape.numel()
    return (numel - layer.num_weight) / numel if numel else 1.0


def _becomes(module: nn.Module) -> Tuple[type, ...]:
    kind = _kind_of(module)
    if kind is None:
        return ()
    return (kind.sparse,) if isinstance(module, kind.masked) else (kind.masked, kind.sparse)


def _why_not_prunable(module: nn.Module) -> Optional[str]:
    kind = _kind_of(module)
    if kind is None:
        kinds = [kind for kind in _KINDS if isinstance(module, kind.plain)]
        if not kinds:
            return f"there is no prunable {type(module).__name__}"
        return _why_not_plain(kinds[0], module) or f"a subclass of {kinds[0].plain.__name__} that may compute otherwise"
    return _why_not_plain(kind, module)


def _why_not_plain(kind: _Kind, module: nn.Module) -> Optional[str]:
    try:
        kind.masked.check_plain(module)
    except ValueError as error:
        return str(error)
    return None


def _is_pruned_by_torch(module: nn.Module) -> bool:
    return not isinstance(module, nn.LSTM) and dense_weight(module).mask is not None


def _why_not_sparse(module: nn.Module) -> Optional[str]:
    if not isinstance(module, Masked) and not _is_pruned_by_torch(module):
        return "not made prunable"
    dtype = dense_weight(module).parameter.dtype
    return None if dtype in _COMPUTES_IN else f"there are no sparse kernels for {dtype}"


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")


def check_min_sparsity(min_sparsity: Any) -> float:
    if isinstance(min_sparsity, bool) or not isinstance(min_sparsity, numbers.Real):
        raise TypeError(f"min_sparsity must be a real number, got {min_sparsity!r}")
    least = float(min_sparsity)
    if not 0 <= least <= 1:
        raise ValueError(f"min_sparsity must be in [0, 1], got {min_sparsity!r}")
    return least
