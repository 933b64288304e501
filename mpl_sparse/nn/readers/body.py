"""One function: what its names may be, then what it does with them."""

from __future__ import annotations

import ast
from typing import Any, Tuple

from torch import nn

from .objects import COLLECTIONS, NONE, Objects, Scope, inside, modules_among, these, union
from .values import Values
from .ways import ASKS, FACTS, READS, TABLES, TABLES_OF_A_LAYER, WEIGHT

__all__ = ["Body"]

_MATCH_CLASS: Any = getattr(ast, "MatchClass", ())  # of Python 3.10


class Body(Values):
    """A function that is followed: whatever in it reads a weight or asks for a type is noted."""

    def follow(self, arguments: Tuple[Objects, ...], keywords: Scope) -> Objects:
        """Note what it does if it is called with these; the objects that it may return."""
        self.bind(arguments, keywords)
        returned = self.value(self.definition.body) if isinstance(self.definition, ast.Lambda) else NONE
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

    def _look_for_weights(self, node: ast.AST) -> None:
        """Whether the expression may be the very weight of a layer, which someone keeps beside it."""
        layers = self.walk.uses.layers
        read = [layers[each] for each in self.value(node) if each in layers]
        if read and not self._asks_for_facts(node):
            self.walk.note(read, self.function, READS)

    def _look_at(self, node: ast.Attribute) -> None:
        objects = self.value(node.value)
        owners = [each.it for each in objects if isinstance(each.it, nn.Module)]
        layers = [each for each in owners if self.walk.uses.becomes(each)]
        if node.attr in TABLES_OF_A_LAYER:
            self.walk.note(layers, self.function, f"reads its {node.attr}")
        elif node.attr in TABLES:
            self.walk.note(modules_among(these(owners)), self.function, f"reads its {node.attr}")
        elif node.attr == "__class__":
            self.walk.note(layers, self.function, ASKS)
        elif WEIGHT.match(node.attr) and not self._asks_for_facts(node):
            self.walk.note(layers, self.function, READS)
            if all(isinstance(each.it, COLLECTIONS) for each in objects) and not self._is_input(node):
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
        return isinstance(after, ast.Attribute) and after.attr in FACTS

    def _look_at_call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "getattr" and len(node.args) >= 2:
            wanted = node.args[1]
            if not isinstance(wanted, ast.Constant) or WEIGHT.match(str(wanted.value)):
                self.walk.note(modules_among(self.value(node.args[0]), deep=False), self.function, READS)
        elif name == "functional_call" and node.args:
            self.walk.note(modules_among(self.value(node.args[0])), self.function, "calls it with another weight")
        elif name == "attrgetter":
            self.walk.note(
                modules_among(union(self.scope.values())), self.function, "may read its weight by attrgetter"
            )
        elif name == "isinstance" and len(node.args) == 2:
            self._look_at_type_test(self.value(node.args[0]), self._types(node.args[1]))
        elif name == "type" and len(node.args) == 1 and not isinstance(self.parents.get(node), ast.Compare):
            self.walk.note(modules_among(self.value(node.args[0]), deep=False), self.function, ASKS)
        else:
            self._follow(node)

    def _look_at_comparison(self, node: ast.Compare) -> None:
        """type(layer) is nn.Linear"""
        sides = [node.left, *node.comparators]
        for side in sides:
            if isinstance(side, ast.Call) and getattr(side.func, "id", "") == "type" and len(side.args) == 1:
                others = [each for other in sides if other is not side for each in self._types(other)]
                tested = modules_among(self.value(side.args[0]), deep=False)
                self.walk.note((m for m in tested if type(m) in others), self.function, ASKS)

    def _matched(self, node: Any) -> Objects:
        """What the statement looks at to which a pattern belongs."""
        while not hasattr(node, "subject"):
            node = self.parents[node]
        return inside(self.value(node.subject))

    def _look_at_type_test(self, objects: Objects, types: Tuple[type, ...]) -> None:
        after = self.walk.uses.becomes
        changed = [
            module
            for module in modules_among(objects, deep=False)
            if not types or any(isinstance(module, types) != issubclass(kind, types) for kind in after(module))
        ]
        self.walk.note(changed, self.function, ASKS)
