"""Packages that one way to show a summary needs, and nothing else does."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["needed"]


def needed(module: str, by: str) -> Any:
    """The module of that dotted name. ImportError that says what to install if its package is missing."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"{by} needs {package}: pip install {package}", name=package) from None
    return importlib.import_module(module)
