"""Functions as they are written: their source, the names in them, and where they come from."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from types import CodeType, FunctionType
from typing import Any, Callable, Iterator, Optional

__all__ = ["is_of_torch", "is_python", "is_super", "names_in", "outside_of", "package_of", "source_of"]


@functools.lru_cache(maxsize=1024)
def source_of(code: CodeType) -> Optional[Any]:
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


def names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def outside_of(function: FunctionType) -> Callable[[str], Any]:
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


def is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"


def is_python(function: Any) -> bool:
    return isinstance(function, FunctionType) and not is_of_torch(function)


def is_of_torch(of: Any) -> bool:
    return package_of(of) == "torch"


def package_of(of: Any) -> str:
    return str(getattr(of, "__module__", "")).partition(".")[0]
