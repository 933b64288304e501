"""Models and layers that the original library pickled whole: their state, as layers of today hold it."""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from ..errors import BadPickle, ForbiddenPickle
from .stream import WHOLE_MODULE, Call, Items

__all__ = ["Part", "is_module", "state_of"]

MAX_MODULES = 100_000
ORIGINAL = "mpl."
SPARSE = ("mpl.nn.linear.SparseLinear", "mpl.nn.conv2d.SparseConv2d")
MASKED = ("mpl.nn.linear.DenseLinear", "mpl.nn.conv2d.DenseConv2d")

# The original's models are torchvision's, copied, in a class of its own.
_MODULES = re.compile(r"(mpl\.(nn|models)|torch\.nn\.modules|torchvision\.models)\.\w+\.\w+")


class Part(NamedTuple):
    """`name` of a sparse layer: values, row_ptr or col_idx, from its sparse weight; or its bias, a column there."""

    name: str
    tensor: Any


def is_module(name: str) -> bool:
    """Whether this is the name of a class of layers or models that the original's models are made of."""
    return _MODULES.fullmatch(name) is not None


def state_of(root: Call) -> Dict[str, Any]:
    """The tensors of a module by name, in the order of its state_dict(), with `mask` beside each masked weight.

    Raises:
        ForbiddenPickle: it is no module of the original library.
        BadPickle: it is not what a module is pickled as.
    """
    if not root.function.startswith(ORIGINAL):
        raise ForbiddenPickle(f"{root.function}: {WHOLE_MODULE}")
    state: Dict[str, Any] = {}
    queue: List[Tuple[str, Any]] = [("", root)]
    for _ in range(MAX_MODULES):
        if not queue:
            return state
        prefix, module = queue.pop()
        for name, tensor in _own(module).items():
            if prefix + name in state:
                raise BadPickle(f"two tensors of a module have the name {(prefix + name)[:80]}")
            state[prefix + name] = tensor
        children = _table(module, "_modules")
        queue += [(f"{prefix}{name}.", child) for name, child in reversed(children.items()) if child is not None]
        if len(prefix) > 10_000:
            raise BadPickle("a module holds itself")
    raise BadPickle(f"it has more than {MAX_MODULES} modules")


def _own(module: Any) -> Dict[str, Any]:
    """The tensors of one module, without those of its children."""
    parameters, buffers = _table(module, "_parameters"), _table(module, "_buffers")
    passing = module.state.get("_non_persistent_buffers_set", ())
    if type(passing) is Call:  # protocols below 4: set([...])
        passing = passing.arguments[0] if passing.arguments else ()
    if type(passing) not in (list, tuple, Items) or not all(type(name) is str for name in passing):
        raise BadPickle("the names of a module's buffers are no strings")
    own = {**parameters, **{name: buffer for name, buffer in buffers.items() if name not in set(passing)}}
    own = {name: tensor for name, tensor in own.items() if tensor is not None}
    if module.function in SPARSE:
        made: Dict[str, Any] = {name: Part(name, own.get("weight")) for name in ("values", "row_ptr", "col_idx")}
        if "bias" in own:
            made["bias"] = Part("bias", own["bias"]) if module.function == SPARSE[0] else own["bias"]
        return made  # its dense_weight_placeholder was never written to
    if module.function in MASKED and "mask" in module.state:
        own["mask"] = module.state["mask"]
    return own


def _table(module: Any, name: str) -> Dict[str, Any]:
    if type(module) is not Call or not is_module(module.function) or type(module.state) is not dict:
        raise BadPickle("a module is not what modules are pickled as")
    table = module.state.get(name)
    if not isinstance(table, dict) or not all(type(key) is str for key in table):
        raise BadPickle(f"a module has no {name}")
    return table
