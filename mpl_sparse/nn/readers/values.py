"""What the expressions of a function may stand for: names, attributes and calls, as far as the source goes."""

from __future__ import annotations

import ast
import functools
import inspect
import weakref
from types import ClassMethodDescriptorType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch import nn

from ..conversions import Conversion
from .functions import is_python, is_super, outside_of, package_of
from .objects import NONE, Objects, Scope, inside, modules_among, these, union

__all__ = ["Values"]

# What gives the modules inside another one, or the members of a collection.
_DEEP = {"modules", "named_modules", "get_submodule"}
_WALKS = {"children", "named_children", "values", "items", "get", "pop", *_DEEP}
_SPREAD_OUT = 8  # arguments at most
_SPREAD = "**"  # the keyword under which a call hands over what it spreads out
_GATHERING = {"enumerate", "zip", "reversed", "list", "tuple", "set", "sorted", "iter", "next", "filter", "map", "dict"}
_PASSES = 20  # over the assignments of a function: a `__getattr__` may make a new object each time
# Whose functions do no more with the modules that they are given than to call, or copy, them.
_ONLY_CALL = {"torch", "copy", "contextlib", "functools", "inspect", "typing", "warnings", "logging"}
_FIELD = type(inspect.getattr_static(Conversion, "name"))  # of a named tuple


class Values:
    """The values of one function's expressions, in the course of a `Walk`."""

    def __init__(self, walk: Any, function: FunctionType, definition: Any) -> None:
        self.walk, self.function, self.definition = walk, function, definition
        self.scope: Scope = {}
        self.values: Dict[Optional[ast.AST], Objects] = {}  # as far as known, in this pass over the assignments
        self.nodes = list(ast.walk(definition))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.outside = outside_of(function)
        self.inner: Dict[str, List[Any]] = {}
        for node in self.nodes[1:]:
            if isinstance(node, ast.FunctionDef):
                self.inner.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                for target in node.targets:
                    self.inner.setdefault(getattr(target, "id", ""), []).append(node.value)

    def bind(self, arguments: Tuple[Objects, ...], keywords: Scope) -> None:
        """Find what each name may be if the function is called with these."""
        declared = self.definition.args
        names = [each.arg for each in [*declared.posonlyargs, *declared.args]]
        named = [*names, *(each.arg for each in declared.kwonlyargs)]
        self._take_defaults(names)
        self.scope.update(zip(names, arguments))
        self.scope.update(keywords)
        spread = keywords.get(_SPREAD, NONE)
        for name in named:
            self.scope[name] = self.scope.get(name, NONE) | spread
        if declared.vararg is not None:
            self.scope[declared.vararg.arg] = union(arguments[len(names) :])
        if declared.kwarg is not None:
            self.scope[declared.kwarg.arg] = union(each for name, each in keywords.items() if name not in named)
        # what a caller outside the model hands over is data
        self.inputs = {name for name in named if self.walk.depth == 1 and not self.scope[name]}
        for _ in range(_PASSES):  # until no name may stand for more
            if not self._assign_all():
                break

    def _take_defaults(self, names: List[str]) -> None:
        defaults = self.function.__defaults__ or ()
        self.scope.update(zip(names[len(names) - len(defaults) :], (these([each]) for each in defaults)))
        self.scope.update({name: these([each]) for name, each in (self.function.__kwdefaults__ or {}).items()})

    def _assign_all(self) -> bool:
        self.values.clear()
        before = sum(map(len, self.scope.values()))
        for target, objects in self._assignments():
            if objects:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        self.scope[node.id] = self.scope.get(node.id, NONE) | objects
        return sum(map(len, self.scope.values())) > before

    def _assignments(self) -> Iterator[Tuple[ast.AST, Objects]]:
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                yield from ((target, self.value(node.value)) for target in node.targets)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                yield node.target, self.value(node.value)
            elif isinstance(node, (ast.For, ast.comprehension)):
                yield node.target, inside(self.value(node.iter))
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
                members = inside(union(self.value(each) for each in node.args if each is not given))
                yield from ((ast.Name(each.arg), members) for each in given.args.args)

    def value(self, node: Optional[ast.AST]) -> Objects:
        """The objects that an expression may be, or that are in the collection which it may be."""
        if node not in self.values:
            self.values[node] = self._value(node)
        return self.values[node]

    def _value(self, node: Optional[ast.AST]) -> Objects:
        if isinstance(node, ast.Name):
            return self.scope[node.id] if node.id in self.scope else these([self.outside(node.id)])
        if isinstance(node, ast.Attribute):
            return union(self._attribute(each.it, node.attr) for each in self.value(node.value))
        if isinstance(node, ast.Subscript):
            return inside(self.value(node.value))
        if isinstance(node, ast.Call):
            return self._value_of_call(node)
        if isinstance(node, ast.IfExp):
            return self.value(node.body) | self.value(node.orelse)
        if isinstance(node, (ast.BoolOp, ast.Dict)):
            return union(map(self.value, node.values))
        if isinstance(node, ast.BinOp):
            return self.value(node.left) | self.value(node.right)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return union(map(self.value, node.elts))
        if isinstance(node, (ast.Starred, ast.NamedExpr)):
            return self.value(node.value)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            return self.value(node.elt)
        return self.value(node.value) if isinstance(node, ast.DictComp) else NONE

    def _attribute(self, owner: Any, name: str) -> Objects:
        """What `owner.name` may be, without running any code but a `__getattr__` of the user's."""
        own = getattr(owner, "__dict__", {})
        if name == "__dict__":
            return these([own])
        if isinstance(owner, nn.Module):
            for table in (own, own["_modules"], own["_parameters"]):
                if name in table:
                    return these([table[name]])
        elif name in own and not isinstance(owner, type):
            return these([own[name]])
        known = inspect.getattr_static(owner, name, None)
        if isinstance(known, (property, functools.cached_property)):
            getter = known.fget if isinstance(known, property) else known.func
            return self.walk.run(getter, (these([owner]),))
        if isinstance(known, functools.singledispatchmethod):
            return these(MethodType(each, owner) for each in known.dispatcher.registry.values())
        if isinstance(known, (MemberDescriptorType, _FIELD)) and not isinstance(owner, type):
            return these([getattr(owner, name, None)])
        if is_python(vars(type(known)).get("__get__")):
            return self.walk.run(MethodType(type(known).__get__, known), (these([owner]),))
        if isinstance(known, (staticmethod, classmethod)):
            return these([known.__func__ if isinstance(known, staticmethod) else MethodType(known.__func__, owner)])
        if isinstance(known, ClassMethodDescriptorType):  # autograd.Function.apply is one from torch 2.14 on
            return these([getattr(owner, name)])
        if isinstance(known, FunctionType):
            return these([known if isinstance(owner, type) else MethodType(known, owner)])
        if hasattr(known, "__wrapped__") and not isinstance(owner, type):  # functools.lru_cache
            return these([MethodType(known.__wrapped__, owner)])
        if known is None and isinstance(owner, nn.Module) and type(owner).__getattr__ is not nn.Module.__getattr__:
            try:
                return these([getattr(owner, name)])
            except Exception:  # whatever it does for a name that it does not know
                return NONE
        return these([known])

    def _value_of_call(self, node: ast.Call) -> Objects:
        called = node.func
        if isinstance(called, ast.Name):
            if called.id == "getattr" and len(node.args) >= 2:
                owners, name = self.value(node.args[0]), node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    return union(self._attribute(each.it, name.value) for each in owners)
                return inside(owners)
            if called.id in _GATHERING:
                return inside(union(map(self.value, node.args)))
            if called.id == "vars" and node.args:
                return union(self._attribute(each.it, "__dict__") for each in self.value(node.args[0]))
            if called.id == "super":
                return self.value(ast.Name(self._first_argument()))
            if called.id in self.inner:
                return self._returned_by_inner(called.id)
        if isinstance(called, ast.Attribute) and called.attr in _WALKS:
            owners = self.value(called.value)
            if owners:
                return these(modules_among(owners)) if called.attr in _DEEP else inside(owners)
        if isinstance(called, ast.Attribute) and called.attr == "parameters":
            return these(
                each for module in modules_among(self.value(called.value)) for each in module._parameters.values()
            )
        return self._follow(node)

    def _returned_by_inner(self, name: str) -> Objects:
        definitions = self.inner.pop(name)  # while it is on its way: for a function that calls itself
        nodes = [node for each in definitions for node in ast.walk(each)]
        results = [node.value for node in nodes if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom))]
        results += [each.body for each in definitions if isinstance(each, ast.Lambda)]
        returned = union(map(self.value, results))
        self.inner[name] = definitions
        return returned

    def _first_argument(self) -> str:
        arguments = [*self.definition.args.posonlyargs, *self.definition.args.args]
        return arguments[0].arg if arguments else ""

    def _types(self, node: ast.AST) -> Tuple[type, ...]:
        return tuple(each.it for each in self.value(node) if isinstance(each.it, type))

    def _follow(self, node: ast.Call) -> Objects:
        """Into the functions that are called; what they may return."""
        arguments: Tuple[Objects, ...] = ()
        for each in node.args:
            # it is not known how many are spread out
            arguments += (self.value(each),) * (_SPREAD_OUT if isinstance(each, ast.Starred) else 1)
        keywords = {each.arg or _SPREAD: self.value(each.value) for each in node.keywords}
        keywords = {name: inside(each) if name == _SPREAD else each for name, each in keywords.items()}
        if isinstance(node.func, ast.Attribute) and is_super(node.func.value):
            receiver, name = self.value(node.func.value), node.func.attr
            methods = [vars(cls).get(name) for each in receiver for cls in type(each.it).__mro__[1:]]
            return union(self.walk.run(each, (receiver, *arguments), keywords) for each in methods if is_python(each))
        given = union([*arguments, *keywords.values()])
        called = [each.it for each in self.value(node.func)]
        for each in called:
            self._look_at_what_is_given(each, arguments, keywords, given)
        return union(self._result(each, arguments, keywords) for each in called)

    def _result(self, called: Any, arguments: Tuple[Objects, ...], keywords: Scope) -> Objects:
        if isinstance(called, weakref.ReferenceType):
            return these([called()])
        return self.walk.run(called, arguments, keywords) if self._leads_on(called) else NONE

    def _look_at_what_is_given(
        self, called: Any, arguments: Tuple[Objects, ...], keywords: Scope, given: Objects
    ) -> None:
        """What becomes of layers, and of functions, that are handed to what is not followed otherwise."""
        if not given or self._leads_on(called):
            return
        applied = _applied(called)
        layers = [each.it for each in given if isinstance(each.it, nn.Module) and self._is_layer(each.it)]
        if isinstance(called, nn.Module):
            if layers and not self._is_layer(called):
                forward = vars(called).get("forward", MethodType(type(called).forward, called))
                self.walk.run(forward, arguments, keywords)
        elif applied is not None:
            for method in (applied.forward, applied.backward):
                self.walk.run(method, (NONE, *arguments), keywords)
        elif isinstance(called, FunctionType) and called.__name__ == "forward":
            self.walk.note(layers, self.function, f"gives it to {called.__qualname__}")
        elif isinstance(called, type) and any(is_python(vars(cls).get("__init__")) for cls in called.__mro__):
            self.walk.note(layers, self.function, f"gives it to a {called.__name__}")
        else:  # functions that others call, such as torch's checkpoint, with what is given beside them
            for each in given:
                if isinstance(each.it, (FunctionType, MethodType, functools.partial)) and self._leads_on(each.it):
                    self.walk.run(each.it, (inside(given),) * _SPREAD_OUT)

    def _leads_on(self, called: Any) -> bool:
        # a module's forward is followed on its own; a layer's methods are its kind's, which the converted one has too
        receiver = called.__self__ if isinstance(called, MethodType) else None
        own = isinstance(receiver, nn.Module) and (called.__func__.__name__ == "forward" or self._is_layer(receiver))
        if isinstance(called, functools.partial):
            return True
        other = isinstance(called, (type, nn.Module)) or own or _applied(called) is not None
        return not other and package_of(called) not in _ONLY_CALL

    def _is_layer(self, module: nn.Module) -> bool:
        return bool(self.walk.uses.becomes(module))


def _applied(called: Any) -> Optional[Any]:
    """The autograd Function whose `apply` this is."""
    owner = getattr(called, "__self__", None)
    is_apply = isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and called.__name__ == "apply"
    return owner if is_apply else None
