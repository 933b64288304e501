"""The data that a score looks at, and what it does with a batch."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Loss",
    "Run",
    "check_data",
    "check_function",
    "cross_entropy",
    "each_batch",
    "run_inputs",
    "softened_cross_entropy",
]

Loss = Callable[[nn.Module, Any], Tensor]
Run = Callable[[nn.Module, Any], Any]


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The mean cross entropy of a classifier for a batch (inputs, classes): a scalar."""
    inputs, classes = batch
    return F.cross_entropy(model(inputs), classes)


def softened_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """`cross_entropy` of the logits divided by 200: every class is about as probable, so that no sample has no say."""
    inputs, classes = batch
    return F.cross_entropy(model(inputs) / 200, classes)


def run_inputs(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch: of a tuple or list its first item is the input, a dict is the keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def check_data(data: Any) -> Iterable[Any]:
    """`data` itself; TypeError unless it can be gone through more than once."""
    if isinstance(data, Iterator) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise TypeError(
            f"data must be batches that can be gone through again, such as a list or a DataLoader, "
            f"got {type(data).__name__}"
        )
    if isinstance(data, (Tensor, str, dict)):
        raise TypeError(f"data must be a list or another iterable of batches, got one {type(data).__name__}")
    return data


def check_function(name: str, function: Any) -> Any:
    """`function` itself; TypeError unless it can be called."""
    if not callable(function):
        raise TypeError(f"{name} must be a function of a model and a batch, got {function!r}")
    return function


def each_batch(data: Iterable[Any]) -> Iterator[Any]:
    """The batches of `data`; ValueError at the end if there was none."""
    batch = each_batch  # a mark that no batch is
    for batch in data:
        yield batch
    if batch is each_batch:
        raise ValueError("data must have at least one batch, got none")
