"""What the forward of a module does with its children, as far as it can be known without running a model.

Each module's own forward is traced by torch.fx, its children being single calls. So what a forward somewhere in a model
does that cannot be traced leaves the rest of the model readable.
"""

from __future__ import annotations

import ast
import gc
import inspect
import itertools
import operator
import textwrap
import weakref
from typing import Any, Dict, List, Optional, Set

import torch
from torch import Tensor, fx, nn

__all__ = ["children_only_called", "is_rewritable", "traces"]


class _Proxy(fx.Proxy):
    """A proxy for which `x += y` stays what it is to a tensor: it writes to x, and to all that shares its memory."""


def _in_place(operation: Any) -> Any:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


_IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift"
for _name in _IN_PLACE.split():
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class _TensorProxy(_Proxy):
    """A proxy that isinstance takes for a tensor."""

    _is_param = False  # what isinstance(..., nn.Parameter) asks a tensor

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return Tensor


class _OwnForward(fx.Tracer):
    """Traces the root's own forward. `seen` are weak references to the values that stood for tensors."""

    def __init__(self, proxy_class: type = _Proxy) -> None:
        super().__init__()
        self.proxy_class = proxy_class
        self.seen: List[weakref.ref] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_arg(self, a: Any) -> Any:
        return a.node if isinstance(a, _Proxy) else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        made = self.proxy_class(node, self)
        self.seen.append(weakref.ref(made))
        return made


def traces(module: nn.Module) -> Optional[List[fx.Graph]]:
    """The graphs of the module's own forward, one for each way its arguments may be taken; None if there is none.

    A tracer's stand-in for a tensor is no Tensor to isinstance, and is never None. So the forward is traced with
    stand-ins that are and that are not, and with optional arguments left out and given: what holds in all of the graphs
    does not depend on such a test. A forward that keeps a value beyond its end has no graph: who reads it is not known.

    The forward runs: trace a copy.
    """
    if "forward" in vars(module) or _is_of_torch(module):
        return None
    defaults = _optional_arguments(module)
    graphs = []
    for proxy_class, concrete in itertools.product((_Proxy, _TensorProxy), [{}, defaults] if defaults else [{}]):
        tracer = _OwnForward(proxy_class)
        try:
            graphs.append(tracer.trace(module, concrete or None))
        except Exception:  # whatever the forward does with a stand-in, it is no graph
            return None
        if _alive(tracer):
            gc.collect()
            if _alive(tracer):
                return None
    return graphs


def _alive(tracer: _OwnForward) -> bool:
    return any(reference() is not None for reference in tracer.seen)


def _optional_arguments(module: nn.Module) -> Dict[str, Any]:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _is_of_torch(module: nn.Module) -> bool:
    # what torch's own modules do with their children is their affair; Sequential alone is a promise
    own = type(module).__module__.split(".")[0] == "torch" or isinstance(module, torch.jit.ScriptModule)
    return own and type(module) is not nn.Sequential and not isinstance(module, fx.GraphModule)


def is_rewritable(module: nn.Module, graphs: List[fx.Graph]) -> bool:
    """Whether the module may be replaced by its graph: nothing that it does, and nobody else uses, is lost by that."""
    if type(module) is nn.Sequential or len({str(graph) for graph in graphs}) != 1:
        return False
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    if any(each.kind is not each.POSITIONAL_OR_KEYWORD or each.default is not each.empty for each in parameters):
        return False
    if any(node.op == "get_attr" and node.target not in _tensors(module) for node in graphs[0].nodes):
        return False  # a tensor that the forward makes would become a constant
    if isinstance(module, fx.GraphModule):
        return True
    methods = _methods(module)
    if methods is None or any(not name.startswith("_") and name != "forward" for name in methods):
        return False
    return not any(_is_lost(each) for name, defs in methods.items() if name != "__init__" for each in defs)


def _is_lost(method: ast.FunctionDef) -> bool:
    """Whether it does what a graph does not show: no_grad or autocast around its code, attributes that it sets."""
    stores = (node for node in ast.walk(method) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return bool(method.decorator_list) or any(stores) or any(isinstance(node, ast.With) for node in ast.walk(method))


def _tensors(module: nn.Module) -> Set[str]:
    return {name for name, _ in itertools.chain(module.named_parameters(), module.named_buffers())}


def _methods(module: nn.Module) -> Optional[Dict[str, List[ast.FunctionDef]]]:
    """The methods that the module's classes define, those of nn.Module aside; None if their source is not at hand."""
    methods: Dict[str, List[ast.FunctionDef]] = {}
    for cls in type(module).__mro__:
        if cls in (nn.Module, object):
            continue
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            return None
        for node in getattr(body, "body", ()):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                methods.setdefault(node.name, []).append(node)  # type: ignore[arg-type]
    return methods


_WALKS = {"children", "named_children", "modules", "named_modules", "get_submodule", "_modules", "__dict__", "apply"}


def children_only_called(module: nn.Module) -> Set[str]:
    """The names of the children that a forward which cannot be traced only ever calls: read off its source.

    Such a child's own forward is all that happens to it and to what it holds. Empty when the source cannot tell.
    """
    methods = None if _is_of_torch(module) or "forward" in vars(module) else _methods(module)
    if methods is None or isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or _keeps_modules(module):
        return set()
    only_called, reached, queue = set(module._modules), {"forward"}, ["forward"]
    while queue:
        for method in methods.get(queue.pop(), ()):
            receiver = method.args.args[0].arg if method.args.args else ""
            nodes = list(ast.walk(method))
            called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
            attributes = [node for node in nodes if _is_name(getattr(node, "value", None), receiver)]
            if sum(_is_name(node, receiver) for node in nodes) != len(attributes):
                return set()  # the module as a whole goes somewhere, or is iterated over
            for node in attributes:
                name = getattr(node, "attr", None)
                if name is None or name in _WALKS:
                    return set()
                if id(node) not in called:
                    only_called.discard(name)
                if name in methods and name not in reached:
                    reached.add(name)
                    queue.append(name)
    return only_called


def _keeps_modules(module: nn.Module) -> bool:
    """Whether an attribute of it may hold modules under another name than theirs."""
    tables = (value for name, value in vars(module).items() if name != "_modules")
    kept = (value.values() if isinstance(value, dict) else value for value in tables)
    return any(isinstance(each, nn.Module) for value in kept if _is_collection(value) for each in value)


def _is_collection(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, type({}.values())))


def _is_name(node: Any, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
