"""Which layers are more to the rest of a model than something it calls: found by reading the code of its forwards.

A masked or sparse layer computes the same as the dense one when it is called. It cannot stand in for it where other
code computes with `layer.weight` itself, as nn.MultiheadAttention does, or asks `isinstance(layer, nn.Linear)`. No
forward is run: each one, and the functions that it reaches, are followed through their syntax trees, an expression
standing for the objects of the model that it may be. Of a function without source only the names in it are known.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
import weakref
from types import CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn

from .conversions import Conversion
from .fused_path import calls_its_layers
from .lstm import PrunableLSTM

__all__ = ["other_uses"]

Becomes = Callable[[nn.Module], Tuple[type, ...]]

# What is asked of a weight without reading its numbers.
_FACTS = {"dtype", "device", "shape", "ndim", "layout", "requires_grad", "is_cuda", "size", "dim", "numel", "type"}
_FACTS |= {"element_size", "is_floating_point", "requires_grad_"}
_WEIGHT = re.compile(r"weight(_orig|_[ih]h_l\d+(_reverse)?)?$")
# Other ways to the weights of a layer, or of all layers of a module.
_TABLES_OF_A_LAYER = {"parameters", "_parameters", "all_weights", "_flat_weights", "_all_weights"}
_TABLES = {"state_dict", "named_parameters", "get_parameter"}
_CALLS = {"functional_call", "attrgetter", *_TABLES}
_TYPE_TESTS = {"isinstance", "issubclass", "type", "__class__"}
# What gives the modules inside another one, or the members of a collection.
_DEEP = {"modules", "named_modules", "get_submodule"}
_WALKS = {"children", "named_children", "values", "items", "get", "pop", *_DEEP}
_SPREAD_OUT = 8  # arguments at most
_SPREAD = "**"  # the keyword under which a call hands over what it spreads out
_GATHERING = {"enumerate", "zip", "reversed", "list", "tuple", "set", "sorted", "iter", "next", "filter", "map", "dict"}
_READS, _ASKS = "reads its weight", "asks for its type"
_DEPTH = 16  # of calls, from a forward on
_FUNCTIONS = 1000  # with what they are called with, from a forward on
_PASSES = 20  # over the assignments of a function: a `__getattr__` may make a new object each time
# Whose functions do no more with the modules that they are given than to call, or copy, them.
_ONLY_CALL = {"torch", "copy", "contextlib", "functools", "inspect", "typing", "warnings", "logging"}
_CALL_ONLY = {nn.Sequential, nn.ModuleList, nn.ModuleDict}
_MATCH_CLASS: Any = getattr(ast, "MatchClass", ())  # of Python 3.10
_COLLECTIONS = (dict, list, tuple, set, frozenset)
_TRIVIAL = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.Size)


_FIELD = type(inspect.getattr_static(Conversion, "name"))  # of a named tuple


class _Object:
    """An object of the model, equal to itself alone."""

    __slots__ = ("it", "_identity")

    def __init__(self, it: Any) -> None:
        self.it = it
        # each look-up of a method makes another object of it
        parts = (it.__func__, it.__self__) if isinstance(it, MethodType) else (it,)
        self._identity = tuple(map(id, parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and other._identity == self._identity

    def __hash__(self) -> int:
        return hash(self._identity)


Objects = FrozenSet[_Object]
Scope = Dict[str, Objects]
_NONE: Objects = frozenset()


def _these(objects: Iterable[Any]) -> Objects:
    kept = (each for each in objects if not isinstance(each, _TRIVIAL))
    return frozenset(_Object(each) for each in kept if not isinstance(each, Tensor) or isinstance(each, nn.Parameter))


def _union(parts: Iterable[Objects]) -> Objects:
    return frozenset().union(*parts)


def other_uses(model: nn.Module, becomes: Becomes) -> Dict[nn.Module, str]:
    """The layers of `model` that code of other modules uses in ways that only the dense layer knows, and what it does.

    Args:
        becomes: the types that a layer may be converted to; empty for a module that stays as it is.
    """
    uses = _Uses(model, becomes)
    for module in model.modules():
        for hook in _hooks(module):
            if not _is_of_torch(hook):
                _Walk(None, uses).run(hook, (_these([module]),))
        if isinstance(module, torch.jit.ScriptModule):
            continue  # compiled: nothing in it is converted
        if calls_its_layers(module):
            _Walk(module, uses).run(vars(module).get("activation"))
        known = type(module) in _CALL_ONLY or isinstance(module, PrunableLSTM) or calls_its_layers(module)
        if known or becomes(module) or _is_of_torch(type(module)) and not module._modules:
            continue  # a layer's own forward is what the conversion takes over
        forward = vars(module).get("forward", type(module).forward)
        own = _these([module])
        _Walk(module, uses).run(forward, () if isinstance(forward, MethodType) else (own,))
        for name in ("__call__", "train"):  # some multiply weights beforehand when they change to eval mode
            method = getattr(type(module), name)
            if method is not getattr(nn.Module, name):
                _Walk(module, uses).run(method, (own,))
    return uses.found


def _hooks(module: nn.Module) -> Iterator[Any]:
    for table in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        yield from getattr(module, table).values()


class _Uses:
    """What has been found, and whose weight is whose."""

    def __init__(self, model: nn.Module, becomes: Becomes) -> None:
        self.becomes = becomes
        self.found: Dict[nn.Module, str] = {}
        self.layers: Dict[_Object, nn.Module] = {}
        for module in model.modules():
            if becomes(module):
                weights = (each for name, each in module._parameters.items() if name.startswith("weight"))
                self.layers.update({_Object(each): module for each in weights})


@functools.lru_cache(maxsize=1024)
def _source(code: CodeType) -> Optional[Any]:
    """The syntax tree of a function or lambda; None where its source is not at hand, or not alone on its line."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if code.co_name != "<lambda>":
        definition = tree.body[0] if tree.body else None
        return definition if isinstance(definition, ast.FunctionDef) else None
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    return lambdas[0] if len(lambdas) == 1 else None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


class _Walk:
    """One forward, or one hook, followed as far as its source goes. `owner` is the module whose forward it is."""

    def __init__(self, owner: Optional[nn.Module], uses: _Uses) -> None:
        self.owner, self.uses = owner, uses
        self.returned: Dict[Any, Objects] = {}
        self.depth = 0

    def run(self, called: Any, arguments: Tuple[Objects, ...] = (), keywords: Optional[Scope] = None) -> Objects:
        """Follow a call; the objects that it may return."""
        keywords = keywords or {}
        if isinstance(called, functools.partial):
            keywords = {**{name: _these([each]) for name, each in called.keywords.items()}, **keywords}
            arguments = (*(_these([each]) for each in called.args), *arguments)
            if not isinstance(called.func, (FunctionType, MethodType)):
                held = _union([*arguments, *keywords.values()])
                self.note((self.uses.layers[each] for each in held if each in self.uses.layers), called, _READS)
            return self.run(called.func, arguments, keywords)
        if isinstance(called, MethodType):
            return self.run(called.__func__, (_these([called.__self__]), *arguments), keywords)
        if not isinstance(called, FunctionType) and not hasattr(called, "__wrapped__"):
            method = vars(type(called)).get("__call__")
            return self.run(MethodType(method, called), arguments, keywords) if _is_python(method) else _NONE
        called = inspect.unwrap(called)
        if not isinstance(called, FunctionType):
            return _NONE
        if self.depth >= _DEPTH or len(self.returned) >= _FUNCTIONS:
            self._suspect(called, arguments)
            return _NONE
        key = (called, arguments, frozenset(keywords.items()))
        if key not in self.returned:
            self.returned[key] = _NONE  # while it is on its way: for a function that calls itself
            self.depth += 1
            definition = _source(called.__code__)
            if definition is None:
                self._suspect(called, arguments)
            else:
                self.returned[key] = _Body(self, called, definition).follow(arguments, keywords)
            self.depth -= 1
        return self.returned[key]

    def _suspect(self, function: FunctionType, arguments: Tuple[Objects, ...]) -> None:
        """Without the source, what a function could reach is taken for read if its names may be a weight's."""
        names = set(_names(function.__code__))
        reads = any(_WEIGHT.match(name) or name in _CALLS or name == "getattr" for name in names)
        if reads or names & _TYPE_TESTS:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            owner = [] if self.owner is None else [self.owner]
            reached = _these([*owner, *cells]) | _union(arguments)
            what = "read its weight" if reads else "ask for its type"
            self.note(_modules(reached), function, f"may {what}, for its source is not at hand")

    def note(self, modules: Iterable[nn.Module], function: Any, what: str) -> None:
        for module in modules:
            if module is not self.owner and self.uses.becomes(module):
                self.uses.found.setdefault(module, f"{self._title(function)} {what}")

    def _title(self, function: Any) -> str:
        name = getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]
        if "." in name:
            return name
        return f"{name}, a hook," if self.owner is None else f"{name}, called by {type(self.owner).__name__},"


class _Body:
    """One function: what its names may be, then what it does with them."""

    def __init__(self, walk: _Walk, function: FunctionType, definition: Any) -> None:
        self.walk, self.function, self.definition = walk, function, definition
        self.scope: Scope = {}
        self.values: Dict[Optional[ast.AST], Objects] = {}  # as far as known, in this pass over the assignments
        self.nodes = list(ast.walk(definition))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.outside = _outside(function)
        self.inner: Dict[str, List[Any]] = {}
        for node in self.nodes[1:]:
            if isinstance(node, ast.FunctionDef):
                self.inner.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                for target in node.targets:
                    self.inner.setdefault(getattr(target, "id", ""), []).append(node.value)

    def follow(self, arguments: Tuple[Objects, ...], keywords: Scope) -> Objects:
        declared = self.definition.args
        names = [each.arg for each in [*declared.posonlyargs, *declared.args]]
        named = [*names, *(each.arg for each in declared.kwonlyargs)]
        self._take_defaults(names)
        self.scope.update(zip(names, arguments))
        self.scope.update(keywords)
        spread = keywords.get(_SPREAD, _NONE)
        for name in named:
            self.scope[name] = self.scope.get(name, _NONE) | spread
        if declared.vararg is not None:
            self.scope[declared.vararg.arg] = _union(arguments[len(names) :])
        if declared.kwarg is not None:
            self.scope[declared.kwarg.arg] = _union(each for name, each in keywords.items() if name not in named)
        # what a caller outside the model hands over is data
        self.inputs = {name for name in named if self.walk.depth == 1 and not self.scope[name]}
        for _ in range(_PASSES):  # until no name may stand for more
            if not self._bind():
                break
        returned = self.value(self.definition.body) if isinstance(self.definition, ast.Lambda) else _NONE
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._look_at(node)
            elif isinstance(node, ast.Call):
                self._look_at_call(node)
            elif isinstance(node, ast.Compare):
                self._look_at_comparison(node)
            elif isinstance(node, _MATCH_CLASS):
                self._look_at_type_test(self._matched(node), self._types(node.cls))
            elif isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
                returned |= self.value(node.value)
            if isinstance(node, (ast.Attribute, ast.Subscript, ast.Name)) and isinstance(node.ctx, ast.Load):
                self._look_for_weights(node)
        return returned

    def _take_defaults(self, names: List[str]) -> None:
        defaults = self.function.__defaults__ or ()
        self.scope.update(zip(names[len(names) - len(defaults) :], (_these([each]) for each in defaults)))
        self.scope.update({name: _these([each]) for name, each in (self.function.__kwdefaults__ or {}).items()})

    def _bind(self) -> bool:
        self.values.clear()
        before = sum(map(len, self.scope.values()))
        for target, objects in self._assignments():
            if objects:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        self.scope[node.id] = self.scope.get(node.id, _NONE) | objects
        return sum(map(len, self.scope.values())) > before

    def _assignments(self) -> Iterator[Tuple[ast.AST, Objects]]:
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                yield from ((target, self.value(node.value)) for target in node.targets)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                yield node.target, self.value(node.value)
            elif isinstance(node, (ast.For, ast.comprehension)):
                yield node.target, _inside(self.value(node.iter))
            elif isinstance(node, ast.Call):
                yield from self._arguments_of_inner(node)

    def _arguments_of_inner(self, node: ast.Call) -> Iterator[Tuple[ast.AST, Objects]]:
        """What a call gives to a function that is defined in this one, or to a lambda that it hands over."""
        for inner in self.inner.get(getattr(node.func, "id", ""), ()):
            names = [ast.Name(each.arg) for each in inner.args.args]
            yield from zip(names, map(self.value, node.args))
            yield from ((ast.Name(each.arg), self.value(each.value)) for each in node.keywords if each.arg)
        for given in node.args:
            if isinstance(given, ast.Lambda):
                members = _inside(_union(self.value(each) for each in node.args if each is not given))
                yield from ((ast.Name(each.arg), members) for each in given.args.args)

    def value(self, node: Optional[ast.AST]) -> Objects:
        """The objects that an expression may be, or that are in the collection which it may be."""
        if node not in self.values:
            self.values[node] = self._value(node)
        return self.values[node]

    def _value(self, node: Optional[ast.AST]) -> Objects:
        if isinstance(node, ast.Name):
            return self.scope[node.id] if node.id in self.scope else _these([self.outside(node.id)])
        if isinstance(node, ast.Attribute):
            return _union(self._attribute(each.it, node.attr) for each in self.value(node.value))
        if isinstance(node, ast.Subscript):
            return _inside(self.value(node.value))
        if isinstance(node, ast.Call):
            return self._value_of_call(node)
        if isinstance(node, ast.IfExp):
            return self.value(node.body) | self.value(node.orelse)
        if isinstance(node, (ast.BoolOp, ast.Dict)):
            return _union(map(self.value, node.values))
        if isinstance(node, ast.BinOp):
            return self.value(node.left) | self.value(node.right)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return _union(map(self.value, node.elts))
        if isinstance(node, (ast.Starred, ast.NamedExpr)):
            return self.value(node.value)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            return self.value(node.elt)
        return self.value(node.value) if isinstance(node, ast.DictComp) else _NONE

    def _attribute(self, owner: Any, name: str) -> Objects:
        """What `owner.name` may be, without running any code but a `__getattr__` of the user's."""
        own = getattr(owner, "__dict__", {})
        if name == "__dict__":
            return _these([own])
        if isinstance(owner, nn.Module):
            for table in (own, own["_modules"], own["_parameters"]):
                if name in table:
                    return _these([table[name]])
        elif name in own and not isinstance(owner, type):
            return _these([own[name]])
        known = inspect.getattr_static(owner, name, None)
        if isinstance(known, (property, functools.cached_property)):
            getter = known.fget if isinstance(known, property) else known.func
            return self.walk.run(getter, (_these([owner]),))
        if isinstance(known, functools.singledispatchmethod):
            return _these(MethodType(each, owner) for each in known.dispatcher.registry.values())
        if isinstance(known, (MemberDescriptorType, _FIELD)) and not isinstance(owner, type):
            return _these([getattr(owner, name, None)])
        if _is_python(vars(type(known)).get("__get__")):
            return self.walk.run(MethodType(type(known).__get__, known), (_these([owner]),))
        if isinstance(known, (staticmethod, classmethod)):
            return _these([known.__func__ if isinstance(known, staticmethod) else MethodType(known.__func__, owner)])
        if isinstance(known, FunctionType):
            return _these([known if isinstance(owner, type) else MethodType(known, owner)])
        if hasattr(known, "__wrapped__") and not isinstance(owner, type):  # functools.lru_cache
            return _these([MethodType(known.__wrapped__, owner)])
        if known is None and isinstance(owner, nn.Module) and type(owner).__getattr__ is not nn.Module.__getattr__:
            try:
                return _these([getattr(owner, name)])
            except Exception:  # whatever it does for a name that it does not know
                return _NONE
        return _these([known])

    def _value_of_call(self, node: ast.Call) -> Objects:
        called = node.func
        if isinstance(called, ast.Name):
            if called.id == "getattr" and len(node.args) >= 2:
                owners, name = self.value(node.args[0]), node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    return _union(self._attribute(each.it, name.value) for each in owners)
                return _inside(owners)
            if called.id in _GATHERING:
                return _inside(_union(map(self.value, node.args)))
            if called.id == "vars" and node.args:
                return _union(self._attribute(each.it, "__dict__") for each in self.value(node.args[0]))
            if called.id == "super":
                return self.value(ast.Name(self._first_argument()))
            if called.id in self.inner:
                return self._returned_by_inner(called.id)
        if isinstance(called, ast.Attribute) and called.attr in _WALKS:
            owners = self.value(called.value)
            if owners:
                return _these(_modules(owners)) if called.attr in _DEEP else _inside(owners)
        if isinstance(called, ast.Attribute) and called.attr == "parameters":
            return _these(each for module in _modules(self.value(called.value)) for each in module._parameters.values())
        return self._follow(node)

    def _returned_by_inner(self, name: str) -> Objects:
        definitions = self.inner.pop(name)  # while it is on its way: for a function that calls itself
        nodes = [node for each in definitions for node in ast.walk(each)]
        results = [node.value for node in nodes if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom))]
        results += [each.body for each in definitions if isinstance(each, ast.Lambda)]
        returned = _union(map(self.value, results))
        self.inner[name] = definitions
        return returned

    def _first_argument(self) -> str:
        arguments = [*self.definition.args.posonlyargs, *self.definition.args.args]
        return arguments[0].arg if arguments else ""

    def _look_for_weights(self, node: ast.AST) -> None:
        """Whether the expression may be the very weight of a layer, which someone keeps beside it."""
        layers = self.walk.uses.layers
        read = [layers[each] for each in self.value(node) if each in layers]
        if read and not self._asks_for_facts(node):
            self.walk.note(read, self.function, _READS)

    def _look_at(self, node: ast.Attribute) -> None:
        objects = self.value(node.value)
        owners = [each.it for each in objects if isinstance(each.it, nn.Module)]
        layers = [each for each in owners if self.walk.uses.becomes(each)]
        if node.attr in _TABLES_OF_A_LAYER:
            self.walk.note(layers, self.function, f"reads its {node.attr}")
        elif node.attr in _TABLES:
            self.walk.note(_modules(_these(owners)), self.function, f"reads its {node.attr}")
        elif node.attr == "__class__":
            self.walk.note(layers, self.function, _ASKS)
        elif _WEIGHT.match(node.attr) and not self._asks_for_facts(node):
            self.walk.note(layers, self.function, _READS)
            if all(isinstance(each.it, _COLLECTIONS) for each in objects) and not self._is_input(node):
                owner = [] if self.walk.owner is None else self.walk.owner.modules()
                self.walk.note(owner, self.function, "may read its weight")

    def _is_input(self, node: Any) -> bool:
        """Whether an expression is a part of what the model is called with."""
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        return isinstance(node, ast.Name) and node.id in self.inputs

    def _asks_for_facts(self, node: ast.AST) -> bool:
        after = self.parents.get(node)
        if isinstance(after, ast.Compare):
            return isinstance(after.ops[0], (ast.Is, ast.IsNot))
        return isinstance(after, ast.Attribute) and after.attr in _FACTS

    def _look_at_call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "getattr" and len(node.args) >= 2:
            wanted = node.args[1]
            if not isinstance(wanted, ast.Constant) or _WEIGHT.match(str(wanted.value)):
                self.walk.note(_modules(self.value(node.args[0]), deep=False), self.function, _READS)
        elif name == "functional_call" and node.args:
            self.walk.note(_modules(self.value(node.args[0])), self.function, "calls it with another weight")
        elif name == "attrgetter":
            self.walk.note(_modules(_union(self.scope.values())), self.function, "may read its weight by attrgetter")
        elif name == "isinstance" and len(node.args) == 2:
            self._look_at_type_test(self.value(node.args[0]), self._types(node.args[1]))
        elif name == "type" and len(node.args) == 1 and not isinstance(self.parents.get(node), ast.Compare):
            self.walk.note(_modules(self.value(node.args[0]), deep=False), self.function, _ASKS)
        else:
            self._follow(node)

    def _look_at_comparison(self, node: ast.Compare) -> None:
        """type(layer) is nn.Linear"""
        sides = [node.left, *node.comparators]
        for side in sides:
            if isinstance(side, ast.Call) and getattr(side.func, "id", "") == "type" and len(side.args) == 1:
                others = [each for other in sides if other is not side for each in self._types(other)]
                tested = _modules(self.value(side.args[0]), deep=False)
                self.walk.note((m for m in tested if type(m) in others), self.function, _ASKS)

    def _matched(self, node: Any) -> Objects:
        """What the statement looks at to which a pattern belongs."""
        while not hasattr(node, "subject"):
            node = self.parents[node]
        return _inside(self.value(node.subject))

    def _look_at_type_test(self, objects: Objects, types: Tuple[type, ...]) -> None:
        after = self.walk.uses.becomes
        changed = [
            module
            for module in _modules(objects, deep=False)
            if not types or any(isinstance(module, types) != issubclass(kind, types) for kind in after(module))
        ]
        self.walk.note(changed, self.function, _ASKS)

    def _types(self, node: ast.AST) -> Tuple[type, ...]:
        return tuple(each.it for each in self.value(node) if isinstance(each.it, type))

    def _follow(self, node: ast.Call) -> Objects:
        """Into the functions that are called; what they may return."""
        arguments: Tuple[Objects, ...] = ()
        for each in node.args:
            # it is not known how many are spread out
            arguments += (self.value(each),) * (_SPREAD_OUT if isinstance(each, ast.Starred) else 1)
        keywords = {each.arg or _SPREAD: self.value(each.value) for each in node.keywords}
        keywords = {name: _inside(each) if name == _SPREAD else each for name, each in keywords.items()}
        if isinstance(node.func, ast.Attribute) and _is_super(node.func.value):
            receiver, name = self.value(node.func.value), node.func.attr
            methods = [vars(cls).get(name) for each in receiver for cls in type(each.it).__mro__[1:]]
            return _union(self.walk.run(each, (receiver, *arguments), keywords) for each in methods if _is_python(each))
        given = _union([*arguments, *keywords.values()])
        called = [each.it for each in self.value(node.func)]
        for each in called:
            self._look_at_what_is_given(each, arguments, keywords, given)
        return _union(self._result(each, arguments, keywords) for each in called)

    def _result(self, called: Any, arguments: Tuple[Objects, ...], keywords: Scope) -> Objects:
        if isinstance(called, weakref.ReferenceType):
            return _these([called()])
        return self.walk.run(called, arguments, keywords) if self._leads_on(called) else _NONE

    def _look_at_what_is_given(
        self, called: Any, arguments: Tuple[Objects, ...], keywords: Scope, given: Objects
    ) -> None:
        """What becomes of layers, and of functions, that are handed to what is not followed otherwise."""
        if not given or self._leads_on(called):
            return
        layers = [each.it for each in given if isinstance(each.it, nn.Module) and self._is_layer(each.it)]
        function = getattr(called, "__self__", None)
        if isinstance(called, nn.Module):
            if layers and not self._is_layer(called):
                forward = vars(called).get("forward", MethodType(type(called).forward, called))
                self.walk.run(forward, arguments, keywords)
        elif isinstance(function, type) and issubclass(function, torch.autograd.Function):
            for method in (function.forward, function.backward):
                self.walk.run(method, (_NONE, *arguments), keywords)
        elif isinstance(called, FunctionType) and called.__name__ == "forward":
            self.walk.note(layers, self.function, f"gives it to {called.__qualname__}")
        elif isinstance(called, type) and any(_is_python(vars(cls).get("__init__")) for cls in called.__mro__):
            self.walk.note(layers, self.function, f"gives it to a {called.__name__}")
        else:  # functions that others call, such as torch's checkpoint, with what is given beside them
            for each in given:
                if isinstance(each.it, (FunctionType, MethodType, functools.partial)) and self._leads_on(each.it):
                    self.walk.run(each.it, (_inside(given),) * _SPREAD_OUT)

    def _leads_on(self, called: Any) -> bool:
        # a module's forward is followed on its own; a layer's methods are its kind's, which the converted one has too
        receiver = called.__self__ if isinstance(called, MethodType) else None
        own = isinstance(receiver, nn.Module) and (called.__func__.__name__ == "forward" or self._is_layer(receiver))
        if isinstance(called, functools.partial):
            return True
        return not isinstance(called, (type, nn.Module)) and not own and _top(called) not in _ONLY_CALL

    def _is_layer(self, module: nn.Module) -> bool:
        return bool(self.walk.uses.becomes(module))


def _outside(function: FunctionType) -> Callable[[str], Any]:
    """What a name is that the function does not bind itself."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    builtins = function.__globals__.get("__builtins__", {})
    builtins = builtins if isinstance(builtins, dict) else vars(builtins)

    def look_up(name: str) -> Any:
        if name in cells:
            try:
                return cells[name].cell_contents
            except ValueError:  # not bound yet
                return None
        return function.__globals__.get(name, builtins.get(name))

    return look_up


def _inside(objects: Objects) -> Objects:
    """The objects themselves, which may be what a collection held, and what is in them."""
    found: List[Any] = []
    for each in objects:
        if isinstance(each.it, nn.Module):
            own = any(_is_python(getattr(type(each.it), name, None)) for name in ("__iter__", "__getitem__"))
            found += each.it.modules() if own else each.it._modules.values()
        elif isinstance(each.it, dict):
            found += each.it.values()
        elif isinstance(each.it, _COLLECTIONS):
            found += each.it
    return objects | _these(found)


def _modules(objects: Objects, deep: bool = True) -> List[nn.Module]:
    """The modules among objects, and with `deep` all that are in them."""
    modules = [each.it for each in objects if isinstance(each.it, nn.Module)]
    return [inner for module in modules for inner in module.modules()] if deep else modules


def _is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"


def _is_python(function: Any) -> bool:
    return isinstance(function, FunctionType) and not _is_of_torch(function)


def _is_of_torch(of: Any) -> bool:
    return _top(of) == "torch"


def _top(of: Any) -> str:
    return str(getattr(of, "__module__", "")).partition(".")[0]
