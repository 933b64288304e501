"""Models in a file: the name of a function of `mpl_sparse.models`, its arguments and the state; no import path."""

from __future__ import annotations

import contextlib
import copy
import sys
from typing import Any, Dict, List, NamedTuple, Tuple

from ..pattern import Pattern
from .errors import FileError, UnknownModel
from .record import check_json
from .tree import Decoder, Encoder, what_of

__all__ = ["Saved", "decoded", "encoded", "is_model", "is_module", "loaded", "made"]

DOWNLOADS = ("weights", "weights_backbone", "progress")  # arguments that would load other weights
MADE_BY_WEIGHTS = ("transform_input", "aux_logits")  # arguments of googlenet and inception_v3 that `weights` change


class Saved(NamedTuple):
    """A model that was read, not yet made."""

    name: str
    config: Dict[str, Any]
    state: Dict[str, Any]
    sparse: List[str]
    frozen: List[str]
    training: bool


def is_module(obj: Any) -> bool:
    """Whether `obj` is an nn.Module; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def encoded(model: Any, encoder: Encoder, path: str, depth: int) -> Any:
    """The JSON of a model at that path and depth of an object; None if it is no nn.Module.

    Raises:
        TypeError: no function of `mpl_sparse.models` made it.
        ValueError: it has been changed since, other than by pruning and conversion of its layers.
    """
    if not is_module(model):
        return None
    from ..models import origin_of
    from ..nn import prunable_layers

    origin = origin_of(model)
    if origin is None:
        what = f"{what_of(path)} is a {type(model).__name__}"
        raise TypeError(f"{what} that no function of mpl_sparse.models made: save its state_dict()")
    name, config = origin
    config = {key: value for key, value in config.items() if key not in DOWNLOADS}
    config.update({key: getattr(model, key) for key in MADE_BY_WEIGHTS if hasattr(model, key)})
    if _signature(_outline(name, config)) != _signature(model):
        raise ValueError(f"{what_of(path)} is no longer what mpl_sparse.models.{name} makes: save its state_dict()")
    patterns = {layer: module.pattern for layer, module in prunable_layers(model) if _is_sparse(module)}
    frozen = [parameter for parameter, tensor in model.named_parameters() if not tensor.requires_grad]
    state = encoder.state(model.state_dict(), path, depth + 1, patterns)
    return ["model", name, encoder.encode(config, path, depth + 1), state, list(patterns), frozen, model.training]


def is_model(node: Any) -> bool:
    """Whether this JSON is that of a model."""
    return type(node) is list and node[:1] == ["model"]


def decoded(node: Any, decoder: Decoder, depth: int = 0) -> Saved:
    """What the JSON of a model tells, checked: `loaded` and `made` make something of it."""
    check_json(len(node) == 7, "the model is not described as a writer does")
    _, name, config, state, sparse, frozen, training = node
    saved = Saved(name, decoder.decode(config, depth), decoder.decode(state, depth), sparse, frozen, training)
    for at, kind in enumerate((str, dict, dict, list, list, bool)):
        check_json(isinstance(saved[at], kind), f"{saved._fields[at]} of the model is {str(saved[at])[:80]}")
    check_json(all(type(key) is str for key in [*sparse, *frozen, *saved.config, *saved.state]), "a name is no string")
    check_json(not set(DOWNLOADS) & saved.config.keys(), "the model asks for other weights")
    return saved


def made(saved: Saved) -> Any:
    """The model, made by its function in `mpl_sparse.models` and given its state.

    Raises:
        UnknownModel: there is no such function, or it makes a model that does not fit the state.
        ImportError: it needs torchvision, which is not installed.
    """
    from .. import requires_torch  # noqa: F401

    with _as_unknown(saved):
        model = _outline(saved.name, saved.config)  # its tensors are assigned: no weight is in memory twice, or dense
        _check_shapes(model, saved)
        _make_sparse(model, saved)
        names: Dict[Any, List[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(parameter, []).append(name)
        model.load_state_dict(saved.state, assign=True)
        for first, *others in names.values():  # tied: one parameter under several names
            for name in others:
                _set(model, name, model.get_parameter(first))
        for module in model.modules():
            if _is_sparse(module):
                module._set_positions(module.pattern)
        _check_nothing_is_left(model)
        parameters = dict(model.named_parameters())
        for name in saved.frozen:
            parameters[name].requires_grad_(False)
    return model.train(saved.training)


def loaded(model: Any, obj: Any) -> Any:
    """`model`, with the state that was saved: a state_dict, or that of a saved model.

    Raises:
        TypeError: `model` is no model, or the file holds no state_dict.
        RuntimeError: torch's, if the state does not fit the model, which stays as it was.
    """
    if not is_module(model):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    state = obj.state if isinstance(obj, Saved) else obj
    if not isinstance(state, dict) or not all(type(key) is str for key in state):
        raise TypeError(
            f"model cannot be loaded from a {type(obj).__name__}: the file must hold a model or a state_dict"
        )
    before = None
    try:
        _twin(model).load_state_dict(state, assign=True)
    except Exception:  # it does not fit; or the model has something that no twin can have
        before = {name: copy.deepcopy(tensor) for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(state)
    except Exception:
        if before is not None:
            model.load_state_dict(before)
        raise
    return model


def _twin(model: Any) -> Any:
    """A copy of the model without memory for its parameters and buffers."""
    import torch

    memo: Dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


def _made(name: str, config: Dict[str, Any]) -> Any:
    from ..models import get_model

    return get_model(name, **config)


def _outline(name: str, config: Dict[str, Any]) -> Any:
    """The model without memory for its weights: on the meta device is what is made by torch.empty, zeros and ones, as
    they are, and the statistics of batch norms. Its arguments come from a file, and may ask for any size."""
    import torch
    from torch.overrides import TorchFunctionMode

    class NewIsMeta(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            place = {"device": "meta"} if function in (torch.empty, torch.zeros, torch.ones) else {}
            return function(*args, **{**(kwargs or {}), **place})

    with NewIsMeta():
        return _made(name, config)


def _make_sparse(model: Any, saved: Saved) -> None:
    """Convert the layers of an outline that are sparse in the file, to the patterns of the file."""
    from ..nn import DenseLSTM, SparseConv2d, SparseLinear, SparseLSTM, prunable_layers
    from ..nn.conversions import Conversion, remember

    rows = []
    for name, layer in prunable_layers(model):
        was, why = type(layer).__name__, "not sparse in the file"
        if name in saved.sparse:
            row_ptr, col_idx = (saved.state[f"{name}.{part}"] for part in ("row_ptr", "col_idx"))
            pattern = Pattern.from_csr(row_ptr, col_idx, layer.weight_shape)
            kind: Any = SparseLinear if was == "DenseLinear" else SparseConv2d
            layer, why = kind.from_dense(layer, pattern), f"{1 - pattern.density:.1%} pruned"
            _set(model, name, layer)
        rows.append(Conversion(name, was, type(layer).__name__, why))
    for module in model.modules():
        if type(module) is DenseLSTM and any(isinstance(child, SparseLinear) for child in module.children()):
            module.__class__ = SparseLSTM  # type: ignore[assignment]
    remember(model, rows)


def _set(model: Any, name: str, part: Any) -> None:
    """Put a module or a parameter in the place of that name."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, part)


def _check_nothing_is_left(model: Any) -> None:
    """ValueError if a tensor of the model is still without memory: the file did not bring it."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"the state does not have {name}")


def _is_sparse(module: Any) -> bool:
    from ..nn import SparseConv2d, SparseLinear

    return isinstance(module, (SparseConv2d, SparseLinear))


def _shapes(model: Any) -> Dict[str, Tuple[int, ...]]:
    """The shapes of a model's state, as they are where no layer is sparse."""
    from ..nn import prunable_layers

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if hasattr(tensor, "shape")}
    for name, layer in prunable_layers(model):
        if _is_sparse(layer):
            for part in ("values", "row_ptr", "col_idx"):
                del shapes[f"{name}.{part}"]
            shapes[f"{name}.weight"] = shapes[f"{name}.mask"] = tuple(layer.weight_shape)
    return shapes


def _signature(model: Any) -> Any:
    """What stays the same in pruning and conversion: the kinds of modules, and the shapes."""
    kinds = {name: type(module).__name__.replace("Sparse", "Dense") for name, module in model.named_modules()}
    fused = [name for name, module in model.named_modules() if getattr(module, "activation", "none") == "relu"]
    return kinds, _shapes(model), fused


def _check_shapes(twin: Any, saved: Saved) -> None:
    """UnknownModel unless the state has the shapes of the model. Those of sparse layers torch checks itself."""
    expected = _shapes(twin)
    for name in saved.sparse:
        rows, values = expected.pop(f"{name}.weight")[0], saved.state.get(f"{name}.values")
        del expected[f"{name}.mask"]
        row_ptr = saved.state.get(f"{name}.row_ptr")
        if values is None or row_ptr is None or tuple(row_ptr.shape) != (rows + 1,):
            raise UnknownModel(f"the state does not fit mpl_sparse.models.{saved.name}", f"{name}.values")
    for name, shape in expected.items():
        if name not in saved.state or tuple(getattr(saved.state[name], "shape", ())) != shape:
            raise UnknownModel(f"the state does not fit mpl_sparse.models.{saved.name}, which has {shape}", name)


@contextlib.contextmanager
def _as_unknown(saved: Saved) -> Any:
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:  # whatever a constructor says of arguments that it was never made for
        message = f"mpl_sparse.models.{saved.name} does not make the model: {str(error)[:300]}"
        raise UnknownModel(message) from error
