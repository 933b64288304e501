"""Pruning until it costs too much."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Callable, Optional

from torch import nn

__all__ = ["EarlyStop"]


@dataclass(frozen=True)
class EarlyStop:
    """Stop pruning once `evaluate(model)` is below `baseline - tolerance`.

    Args:
        evaluate: gives a number, more being better, such as the accuracy. Training flags are restored after it.
        tolerance: how much of it may be lost.
        baseline: what is lost from; None: what the model has before it is first pruned.
        undo: bring the model back to what it was before the last pruning, all its parameters and buffers; this takes
            memory for one more model. If False it stays as it is, and only further pruning is left out.

    Raises:
        TypeError: `evaluate` is no function, a number is none, or `undo` no bool.
        ValueError: `tolerance` is negative, or a number not finite.
    """

    evaluate: Callable[[nn.Module], float]
    tolerance: float = 0.01
    baseline: Optional[float] = None
    undo: bool = True

    def __post_init__(self) -> None:
        if not callable(self.evaluate):
            raise TypeError(f"evaluate must be a function of the model, got {self.evaluate!r}")
        if checked_number("tolerance", self.tolerance) < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance!r}")
        if self.baseline is not None:
            checked_number("baseline", self.baseline)
        if not isinstance(self.undo, bool):
            raise TypeError(f"undo must be True or False, got {self.undo!r}")


def checked_number(name: str, value: Any) -> float:
    """`value` as a finite float; TypeError or ValueError naming it otherwise. A tensor of one number will do."""
    if not isinstance(value, bool) and not isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)
