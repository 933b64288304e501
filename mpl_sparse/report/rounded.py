"""Large counts in few characters."""

from __future__ import annotations

__all__ = ["rounded"]

LETTERS = ("", "k", "M", "G", "T", "P")


def rounded(count: float) -> str:
    """Three digits and a letter for the power of 1000: 12_345_678 -> 12.3M."""
    power = 0
    while abs(count) >= 999.5 and power < len(LETTERS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g}{LETTERS[power]}"
