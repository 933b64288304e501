"""Which layers are more to the rest of a model than something it calls: found by reading the code of its forwards.

A masked or sparse layer computes the same as the dense one when it is called. It cannot stand in for it where other
code computes with `layer.weight` itself, as nn.MultiheadAttention does, or asks `isinstance(layer, nn.Linear)`. Nothing
is run: each forward, and the methods and functions that it reaches, are followed from their syntax trees, with what is
known of every name: which modules it may stand for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from types import FunctionType, MethodType
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, Optional, Tuple

from torch import nn

from .fused_path import calls_its_layers
from .lstm import PrunableLSTM

__all__ = ["other_uses"]

Modules = FrozenSet[nn.Module]
Scope = Dict[str, Modules]

# What is asked of a weight without reading its numbers.
_FACTS = {"dtype", "device", "shape", "ndim", "layout", "requires_grad", "is_cuda", "size", "dim", "numel", "type"}
_FACTS |= {"element_size", "is_floating_point"}
# Other ways to a weight, where the layer itself is the receiver.
_TABLES = {"parameters", "named_parameters", "state_dict", "_parameters", "all_weights", "_flat_weights"}
# What gives the modules inside another one, or inside a collection of them.
_WALKS = {"children", "named_children", "modules", "named_modules", "values", "items", "get", "get_submodule", "pop"}
_GATHERING = {"enumerate", "zip", "reversed", "list", "tuple", "set", "sorted", "iter", "next", "filter", "dict"}
_DEPTH = 8  # of calls, from a forward on
_CALL_ONLY = {nn.Sequential, nn.ModuleList, nn.ModuleDict}


def other_uses(model: nn.Module, becomes: Callable[[nn.Module], Tuple[type, ...]]) -> Dict[nn.Module, str]:
    """The layers of `model` that code of other modules uses in ways that only the dense layer knows, and what it does.

    Args:
        becomes: the types that a layer may be converted to; empty for a module that stays as it is.
    """
    uses: Dict[nn.Module, str] = {}
    for module in model.modules():
        known = type(module) in _CALL_ONLY or isinstance(module, PrunableLSTM) or calls_its_layers(module)
        if not known and _holds_modules(module):
            _Walk(module, becomes, uses).run(vars(module).get("forward", type(module).forward))
    return uses


def _holds_modules(module: nn.Module) -> bool:
    # an attribute may hold modules past `_modules`: a list of them, or one that hides from registration
    return bool(module._modules) or any(map(_modules_in, vars(module).values()))


def _modules_in(value: Any) -> Modules:
    if isinstance(value, nn.Module):
        return frozenset([value])
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return frozenset(each for each in value if isinstance(each, nn.Module))
    return frozenset()


@functools.lru_cache(maxsize=4096)
def _source(function: FunctionType) -> Optional[ast.FunctionDef]:
    """The syntax tree of a function; None where there is no source, or none that stands alone (a lambda)."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    definition = body[0] if body else None
    return definition if isinstance(definition, ast.FunctionDef) else None


class _Walk:
    """One module's forward, followed as far as its source goes."""

    def __init__(
        self, owner: nn.Module, becomes: Callable[[nn.Module], Tuple[type, ...]], uses: Dict[nn.Module, str]
    ) -> None:
        self.owner, self.becomes, self.uses = owner, becomes, uses
        self.returned: Dict[Any, Modules] = {}
        self.depth = 0

    def run(self, function: Any, arguments: Tuple[Modules, ...] = (), keywords: Optional[Scope] = None) -> Modules:
        """Follow a call of `function`; the modules that it may return."""
        if isinstance(function, functools.partial):
            function = function.func
        if isinstance(function, MethodType):
            bound = function.__self__
            first = frozenset([bound]) if isinstance(bound, nn.Module) else frozenset()
            function, arguments = function.__func__, (first, *arguments)
        elif not arguments:
            arguments = (frozenset([self.owner]),)
        function = inspect.unwrap(function) if callable(function) else function
        if not isinstance(function, FunctionType) or self.depth >= _DEPTH:
            return frozenset()
        key = (function, arguments, frozenset((keywords or {}).items()))
        definition = _source(function)
        if definition is None or key in self.returned:
            return self.returned.get(key, frozenset())
        self.returned[key] = frozenset()  # while it is on its way: for a function that calls itself
        self.depth += 1
        self.returned[key] = _Body(self, function, definition).follow(arguments, keywords or {})
        self.depth -= 1
        return self.returned[key]

    def note(self, modules: Iterable[nn.Module], function: Any, what: str) -> None:
        for module in modules:
            if module is not self.owner and self.becomes(module):
                self.uses.setdefault(module, f"{_title(function, self.owner)} {what}")


def _title(function: FunctionType, owner: nn.Module) -> str:
    name = function.__qualname__.rpartition("<locals>.")[2]
    return name if "." in name else f"{name}, called by {type(owner).__name__},"


class _Body:
    """One function: the names it binds to modules, then what it does with them."""

    def __init__(self, walk: _Walk, function: FunctionType, definition: ast.FunctionDef) -> None:
        self.walk, self.function, self.definition = walk, function, definition
        self.scope: Scope = {}
        self.nodes = list(ast.walk(definition))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def follow(self, arguments: Tuple[Modules, ...], keywords: Scope) -> Modules:
        declared = self.definition.args
        names = [each.arg for each in [*declared.posonlyargs, *declared.args]]
        self.scope.update(zip(names, arguments))
        self.scope.update(keywords)
        if declared.vararg is not None:
            self.scope[declared.vararg.arg] = frozenset().union(*arguments[len(names) :])
        while self._bind():  # until no name may stand for more
            pass
        returned: Modules = frozenset()
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._look_at(node)
            elif isinstance(node, ast.Call):
                self._look_at_call(node)
            elif isinstance(node, ast.Compare):
                self._look_at_comparison(node)
            elif isinstance(node, ast.Return) and node.value is not None:
                returned |= self.value(node.value)
        return returned

    def _bind(self) -> bool:
        before = sum(map(len, self.scope.values()))
        for target, modules in self._assignments():
            if modules:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        self.scope[node.id] = self.scope.get(node.id, frozenset()) | modules
        return sum(map(len, self.scope.values())) > before

    def _assignments(self) -> Iterator[Tuple[ast.AST, Modules]]:
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                yield from ((target, self.value(node.value)) for target in node.targets)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                yield node.target, self.value(node.value)
            elif isinstance(node, (ast.For, ast.comprehension)):
                yield node.target, _inside(self.value(node.iter))

    def value(self, node: Optional[ast.AST]) -> Modules:
        """The modules that an expression may stand for, or that the collection holds for which it may."""
        if isinstance(node, ast.Name):
            return self.scope.get(node.id, frozenset())
        if isinstance(node, ast.Attribute):
            return frozenset().union(*(self._attribute(module, node.attr) for module in self.value(node.value)))
        if isinstance(node, ast.Subscript):
            return _inside(self.value(node.value))
        if isinstance(node, ast.Call):
            return self._value_of_call(node)
        if isinstance(node, ast.IfExp):
            return self.value(node.body) | self.value(node.orelse)
        if isinstance(node, ast.BoolOp):
            return frozenset().union(*map(self.value, node.values))
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return frozenset().union(*map(self.value, node.elts))
        if isinstance(node, ast.Dict):
            return frozenset().union(*map(self.value, node.values))
        if isinstance(node, (ast.Starred, ast.NamedExpr)):
            return self.value(node.value)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            return self.value(node.elt)
        return frozenset()

    def _value_of_call(self, node: ast.Call) -> Modules:
        called = node.func
        if isinstance(called, ast.Name):
            if called.id == "getattr" and len(node.args) >= 2:
                owners, name = self.value(node.args[0]), node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    return frozenset().union(*(self._attribute(module, name.value) for module in owners))
                return _inside(owners)
            if called.id in _GATHERING:
                return _inside(frozenset().union(*map(self.value, node.args)))
        if isinstance(called, ast.Attribute) and called.attr in _WALKS:
            owners = self.value(called.value)
            deep = called.attr in ("modules", "named_modules", "get_submodule")
            return frozenset().union(*(m.modules() for m in owners)) if deep else _inside(owners)
        return self._follow(node)

    def _attribute(self, module: nn.Module, name: str) -> Modules:
        """The modules that an attribute of a module is, holds, or returns if it is a property."""
        known = inspect.getattr_static(type(module), name, None)
        if isinstance(known, (property, functools.cached_property)):
            getter = known.fget if isinstance(known, property) else known.func
            return self.walk.run(getter, (frozenset([module]),))
        child = module._modules.get(name)
        return _modules_in(vars(module).get(name)) if child is None else frozenset([child])

    def _look_at(self, node: ast.Attribute) -> None:
        self.value(node)  # follows a property
        if node.attr in _TABLES:
            self.walk.note(self.value(node.value), self.function, f"reads its {node.attr}")
        elif node.attr.startswith("weight"):
            after = self.parents.get(node)
            if not (isinstance(after, ast.Attribute) and after.attr in _FACTS) and not self._is_test_for_none(after):
                self.walk.note(self.value(node.value), self.function, "reads its weight")

    @staticmethod
    def _is_test_for_none(node: Optional[ast.AST]) -> bool:
        return isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot))

    def _look_at_call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "getattr" and len(node.args) >= 2:
            wanted = node.args[1]
            if not isinstance(wanted, ast.Constant) or str(wanted.value).startswith("weight"):
                self.walk.note(self.value(node.args[0]), self.function, "reads its weight")
        elif name == "functional_call" and node.args:
            modules = frozenset().union(*(module.modules() for module in self.value(node.args[0])))
            self.walk.note(modules, self.function, "calls it with another weight")
        elif name == "isinstance" and len(node.args) == 2:
            self._look_at_type_test(self.value(node.args[0]), self._object(node.args[1]))
        else:
            self._follow(node)

    def _look_at_comparison(self, node: ast.Compare) -> None:
        """type(layer) is nn.Linear"""
        sides = [node.left, *node.comparators]
        for side in sides:
            if isinstance(side, ast.Call) and getattr(side.func, "id", "") == "type" and len(side.args) == 1:
                others = tuple(self._object(each) for each in sides if each is not side)
                tested = self.value(side.args[0])
                self.walk.note((m for m in tested if type(m) in others), self.function, "asks for its type")

    def _look_at_type_test(self, modules: Modules, types: Any) -> None:
        try:
            changed = [m for m in modules if any(isinstance(m, types) != issubclass(t, types) for t in self._after(m))]
        except TypeError:  # what it is tested for is not known
            changed = [m for m in modules if self._after(m)]
        self.walk.note(changed, self.function, "asks for its type")

    def _after(self, module: nn.Module) -> Tuple[type, ...]:
        return self.walk.becomes(module)

    def _follow(self, node: ast.Call) -> Modules:
        """Into a method of a module or a function that is given modules; what it may return."""
        arguments = tuple(self.value(each) for each in node.args)
        keywords = {each.arg: self.value(each.value) for each in node.keywords if each.arg is not None}
        called = node.func
        if isinstance(called, ast.Attribute):
            if isinstance(called.value, ast.Call) and getattr(called.value.func, "id", "") == "super":
                return self._follow_super(called.attr, arguments, keywords)
            receivers = self.value(called.value)
            if receivers:
                return frozenset().union(*(self._method(m, called.attr, arguments, keywords) for m in receivers))
        if not any(arguments) and not any(keywords.values()):
            return frozenset()
        function = self._object(called)
        if not callable(function) or isinstance(function, type) or _is_of_torch(function):
            return frozenset()
        return self.walk.run(function, arguments or (frozenset(),), keywords)

    def _method(self, module: nn.Module, name: str, arguments: Tuple[Modules, ...], keywords: Scope) -> Modules:
        # another module's forward is followed on its own; methods of nn.Module compute nothing with a weight; those of
        # a layer are its kind's, which the converted layer has too
        method = getattr(type(module), name, None)
        if method is None or name in ("forward", "__call__") or method is getattr(nn.Module, name, None):
            return frozenset()
        if self.walk.becomes(module):
            return frozenset()
        if isinstance(inspect.getattr_static(type(module), name), (staticmethod, classmethod)):
            first: Tuple[Modules, ...] = (frozenset(),) if hasattr(method, "__self__") else ()
        else:
            first = (frozenset([module]),)
        return self.walk.run(getattr(method, "__func__", method), (*first, *arguments) or (frozenset(),), keywords)

    def _follow_super(self, name: str, arguments: Tuple[Modules, ...], keywords: Scope) -> Modules:
        found: Modules = frozenset()
        for cls in type(self.walk.owner).__mro__[1:]:
            method = vars(cls).get(name)
            if isinstance(method, FunctionType) and cls is not nn.Module:
                found |= self.walk.run(method, (frozenset([self.walk.owner]), *arguments), keywords)
        return found

    def _object(self, node: ast.AST) -> Any:
        """What a name or a dotted name stands for where the function was defined; None if that is not known."""
        if isinstance(node, ast.Tuple):
            parts = tuple(self._object(each) for each in node.elts)
            return None if None in parts else parts
        if isinstance(node, ast.Attribute):
            return getattr(self._object(node.value), node.attr, None)
        if not isinstance(node, ast.Name):
            return None
        closure = inspect.getclosurevars(self.function) if self.function.__closure__ else None
        if closure is not None and node.id in closure.nonlocals:
            return closure.nonlocals[node.id]
        builtins = self.function.__globals__.get("__builtins__", {})
        builtins = builtins if isinstance(builtins, dict) else vars(builtins)
        return self.function.__globals__.get(node.id, builtins.get(node.id))


def _inside(modules: Modules) -> Modules:
    """The modules themselves, which may be what a collection held, and their children."""
    children = (child for module in modules for child in module._modules.values() if child is not None)
    return modules.union(children)


def _is_of_torch(function: Any) -> bool:
    # torch's functions that take modules only call them (checkpoint, parallel_apply)
    return str(getattr(function, "__module__", "")).split(".")[0] in ("torch", "builtins")
