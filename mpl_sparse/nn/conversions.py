"""What a conversion did to each layer of a model, and why."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["Conversion", "ConversionReport", "conversion_report"]


class Conversion(NamedTuple):
    """One layer: its name in the model, the class it `was` and `now` is, and why."""

    name: str
    was: str
    now: str
    why: str


class ConversionReport:
    """What `prunable`, `to_sparse` or `to_dense` did. str() is a table.

    Attributes:
        rows: a `Conversion` for each layer that has a weight of two or more dimensions, in the order of the model.
    """

    def __init__(self, rows: Tuple[Conversion, ...]) -> None:
        self.rows = rows

    @property
    def changed(self) -> List[Conversion]:
        """The layers that became something else."""
        return [row for row in self.rows if row.was != row.now]

    @property
    def left(self) -> List[Conversion]:
        """The layers that stayed what they were."""
        return [row for row in self.rows if row.was == row.now]

    def __str__(self) -> str:
        table = [("layer", "was", "now", "why"), *self.rows]
        widths = [max(map(len, column)) for column in zip(*table)][:3]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in table]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

    __repr__ = __str__


# The last report on a model, for as long as the model lives: not an attribute, which would be copied and pickled.
_reports: WeakKeyDictionary[nn.Module, ConversionReport] = WeakKeyDictionary()


def remember(model: nn.Module, rows: List[Conversion]) -> None:
    """Note what became of the layers of `model`."""
    _reports[model] = ConversionReport(tuple(rows))


def conversion_report(model: nn.Module) -> ConversionReport:
    """What the last `prunable`, `to_sparse` or `to_dense` that returned this very `model` did to its layers, and why.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: none of them returned it; a copy of such a model has no report.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if model not in _reports:
        raise ValueError(f"model, a {type(model).__name__}, is not what prunable, to_sparse or to_dense returned")
    return _reports[model]
