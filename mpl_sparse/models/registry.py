"""All models by name: the only names that a model is made from."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List

from . import leaf, lenet, vision

__all__ = ["get_model", "list_models"]

_OWN: Dict[str, Callable[..., Any]] = {
    function.__name__: function for module in (leaf, lenet) for function in module.CONSTRUCTORS
}


def list_models(include: str = "*") -> List[str]:
    """The names that `get_model` takes, sorted; those that match the pattern `include`, such as "resnet*".

    Those of torchvision are among them whether it is installed or not.
    """
    if not isinstance(include, str):
        raise TypeError(f"include must be a pattern, got {include!r}")
    return sorted(name for name in (*_OWN, *vision.CONSTRUCTORS) if fnmatchcase(name, include))


def get_model(name: str, **config: Any) -> Any:
    """A fresh model, prunable and with all of its weights: what `mpl_sparse.models.<name>(**config)` makes.

    Args:
        name: one of `list_models()`.
        config: the model's own arguments. torchvision's take its `weights` (a name such as "DEFAULT", or None), and
            `exclude`: names or patterns of layers that stay dense.

    Raises:
        TypeError: `name` is not a string.
        ValueError: there is no such model.
        ImportError: it is torchvision's, which is not installed.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if name in _OWN:
        return _OWN[name](**config)
    if name in vision.CONSTRUCTORS:
        return vision.model_constructor(name)(**config)
    raise ValueError(f"name must be one of mpl_sparse.models.list_models(), got {name!r}")
