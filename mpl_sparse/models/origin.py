"""Which function of `mpl_sparse.models` made a model, with which arguments: what a saved model is made from again."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

__all__ = ["constructor", "origin_of", "remember_origin"]

Construct = TypeVar("Construct", bound=Callable[..., Any])


def constructor(function: Construct) -> Construct:
    """`function`, whose models know that it made them."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def construct(*args: Any, **kwargs: Any) -> Any:
        model = function(*args, **kwargs)
        remember_origin(model, function.__name__, signature.bind(*args, **kwargs).arguments)
        return model

    return construct  # type: ignore[return-value]


def remember_origin(model: Any, name: str, config: Dict[str, Any]) -> None:
    """Note that `get_model(name, **config)` made the model."""
    model._origin = name, dict(config)


def origin_of(model: Any) -> Optional[Tuple[str, Dict[str, Any]]]:
    """(name, config) of the model and of its copies and conversions; None if no function of the registry made it."""
    return getattr(model, "_origin", None)
