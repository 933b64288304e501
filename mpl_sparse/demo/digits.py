"""1,797 handwritten digits, 8x8, of the UCI repository (CC BY 4.0, see ATTRIBUTION.txt)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Tuple

import numpy as np

__all__ = ["HELD_OUT", "Digits", "load_digits", "split_digits"]

HELD_OUT = 360


class Digits(NamedTuple):
    """`images`, uint8 (N, 8, 8) from 0 to 16, and `labels`, uint8 (N,) from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def load_digits() -> Digits:
    """All digits, in the order of the original file."""
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        return Digits(arrays["images"], arrays["labels"])


def split_digits(digits: Digits) -> Tuple[Digits, Digits]:
    """The digits to learn from, and the last 360 to judge by.

    The file is not shuffled and a random split would be easier: digits that stand together look alike.
    """
    cut = len(digits.labels) - HELD_OUT
    return Digits(digits.images[:cut], digits.labels[:cut]), Digits(digits.images[cut:], digits.labels[cut:])
