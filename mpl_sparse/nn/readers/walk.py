"""One forward, or one hook, followed from function to function, and what was found on the way."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType, MethodType
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

from torch import nn

from .body import Body
from .functions import is_python, names_in, source_of
from .objects import NONE, Object, Objects, Scope, modules_among, these, union
from .ways import CALLS, READS, TYPE_TESTS, WEIGHT

__all__ = ["Becomes", "Uses", "Walk"]

Becomes = Callable[[nn.Module], Tuple[type, ...]]

_DEPTH = 16  # of calls, from a forward on
_FUNCTIONS = 1000  # with what they are called with, from a forward on


class Uses:
    """What has been found, and whose weight is whose."""

    def __init__(self, model: nn.Module, becomes: Becomes) -> None:
        self.becomes = becomes
        self.found: Dict[nn.Module, str] = {}
        self.layers: Dict[Object, nn.Module] = {}
        for module in model.modules():
            if becomes(module):
                weights = (each for name, each in module._parameters.items() if name.startswith("weight"))
                self.layers.update({Object(each): module for each in weights})


class Walk:
    """One forward, or one hook, followed as far as its source goes. `owner` is the module whose forward it is."""

    def __init__(self, owner: Optional[nn.Module], uses: Uses) -> None:
        self.owner, self.uses = owner, uses
        self.returned: Dict[Any, Objects] = {}
        self.depth = 0

    def run(self, called: Any, arguments: Tuple[Objects, ...] = (), keywords: Optional[Scope] = None) -> Objects:
        """Follow a call; the objects that it may return."""
        keywords = keywords or {}
        if isinstance(called, functools.partial):
            keywords = {**{name: these([each]) for name, each in called.keywords.items()}, **keywords}
            arguments = (*(these([each]) for each in called.args), *arguments)
            if not isinstance(called.func, (FunctionType, MethodType)):
                held = union([*arguments, *keywords.values()])
                self.note((self.uses.layers[each] for each in held if each in self.uses.layers), called, READS)
            return self.run(called.func, arguments, keywords)
        if isinstance(called, MethodType):
            return self.run(called.__func__, (these([called.__self__]), *arguments), keywords)
        if not isinstance(called, FunctionType) and not hasattr(called, "__wrapped__"):
            method = vars(type(called)).get("__call__")
            return self.run(MethodType(method, called), arguments, keywords) if is_python(method) else NONE
        called = inspect.unwrap(called)
        if not isinstance(called, FunctionType):
            return NONE
        if self.depth >= _DEPTH or len(self.returned) >= _FUNCTIONS:
            self._suspect(called, arguments)
            return NONE
        key = (called, arguments, frozenset(keywords.items()))
        if key not in self.returned:
            self.returned[key] = NONE  # while it is on its way: for a function that calls itself
            self.depth += 1
            definition = source_of(called.__code__)
            if definition is None:
                self._suspect(called, arguments)
            else:
                self.returned[key] = Body(self, called, definition).follow(arguments, keywords)
            self.depth -= 1
        return self.returned[key]

    def _suspect(self, function: FunctionType, arguments: Tuple[Objects, ...]) -> None:
        """Without the source, what a function could reach is taken for read if its names may be a weight's."""
        names = set(names_in(function.__code__))
        reads = any(WEIGHT.match(name) or name in CALLS or name == "getattr" for name in names)
        if reads or names & TYPE_TESTS:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            owner = [] if self.owner is None else [self.owner]
            reached = these([*owner, *cells]) | union(arguments)
            what = "read its weight" if reads else "ask for its type"
            self.note(modules_among(reached), function, f"may {what}, for its source is not at hand")

    def note(self, modules: Iterable[nn.Module], function: Any, what: str) -> None:
        for module in modules:
            if module is not self.owner and self.uses.becomes(module):
                self.uses.found.setdefault(module, f"{self._title(function)} {what}")

    def _title(self, function: Any) -> str:
        name = getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]
        if "." in name:
            return name
        return f"{name}, a hook," if self.owner is None else f"{name}, called by {type(self.owner).__name__},"
