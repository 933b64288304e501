"""Which share of a layer's weights an update moves, by the number of the training step."""

from __future__ import annotations

import math
from typing import Any, Callable

__all__ = ["Fraction", "constant_fraction", "cosine_fraction"]

Fraction = Callable[[int], float]


def constant_fraction(fraction: float) -> Fraction:
    """`fraction` at every step: SET's zeta.

    Raises:
        TypeError: `fraction` is not a real number.
        ValueError: it is not in [0, 1].
    """
    share = checked_fraction("fraction", fraction)
    return lambda step: share


def cosine_fraction(alpha: float, until: int) -> Fraction:
    """alpha / 2 * (1 + cos(step * pi / until)): from `alpha` down to 0 at step `until`, and 0 from there on.

    Evci et al., "Rigging the lottery" (2020, arXiv:1911.11134), f_decay; after Dettmers & Zettlemoyer
    (2019, arXiv:1907.04840).

    Raises:
        TypeError: `alpha` is not a real number, or `until` not an integer.
        ValueError: `alpha` is not in [0, 1], or `until` is less than 1.
    """
    share, last = checked_fraction("alpha", alpha), checked_count("until", until)
    return lambda step: share / 2 * (1 + math.cos(math.pi * step / last)) if step < last else 0.0


def checked_fraction(name: str, value: Any) -> float:
    """`value` as a float in [0, 1]; TypeError or ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return float(value)


def checked_count(name: str, value: Any) -> int:
    """`value`, an int of at least 1; TypeError or ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return value
