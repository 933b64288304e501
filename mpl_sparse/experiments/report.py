"""The table, and the orderings that the papers lead one to expect, checked."""

from __future__ import annotations

import statistics
from typing import Dict, List, NamedTuple, Sequence

from .methods import METHODS
from .records import Record

__all__ = ["Cell", "Comparison", "cells", "compare", "orderings", "table"]


class Cell(NamedTuple):
    """Mean and standard deviation (of a sample; 0 for one) of the accuracies of all seeds."""

    mean: float
    deviation: float
    seeds: int


class Comparison(NamedTuple):
    """The mean of `better` minus `worse` over the seeds and densities that both have, and its standard error."""

    better: str
    worse: str
    difference: float
    error: float
    pairs: int

    @property
    def verdict(self) -> str:
        """By twice the standard error."""
        if abs(self.difference) <= 2 * self.error:
            return "not to be told apart"
        return "shows" if self.difference > 0 else "the other way round"


def cells(records: Sequence[Record]) -> Dict[str, Dict[float, Cell]]:
    """By method and density, in the order of METHODS and falling density."""
    found: Dict[str, Dict[float, Cell]] = {}
    for method in METHODS:
        own = [record for record in records if record.method == method]
        for density in sorted({record.density for record in own}, reverse=True):
            values = [record.accuracy for record in own if record.density == density]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            found.setdefault(method, {})[density] = Cell(statistics.fmean(values), deviation, len(values))
    return found


def table(records: Sequence[Record]) -> str:
    """Markdown: accuracy in per cent, mean and deviation."""
    found = cells(records)
    densities = sorted({density for row in found.values() for density in row} - {1.0}, reverse=True)
    lines = ["| | " + " | ".join(f"{density:.1%}" for density in densities) + " |"]
    lines.append("| --- |" + " ---: |" * len(densities))
    for method, row in found.items():
        whole = row.get(1.0)
        texts = [_text(row[density]) if density in row else _text(whole) if whole else "" for density in densities]
        lines.append(f"| {method} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f} ± {100 * cell.deviation:.1f}"


def compare(records: Sequence[Record], better: str, worse: str, densities: Sequence[float]) -> Comparison:
    """Pair by density and seed."""
    accuracies = {(record.method, record.density, record.seed): record.accuracy for record in records}
    pairs = [
        (accuracies[key], accuracies[(worse, key[1], key[2])])
        for key in sorted(accuracies)
        if key[0] == better and key[1] in densities and (worse, key[1], key[2]) in accuracies
    ]
    differences: List[float] = [one - other for one, other in pairs]
    if not differences:
        return Comparison(better, worse, 0.0, 0.0, 0)
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("inf")
    return Comparison(better, worse, statistics.fmean(differences), error, len(differences))


def orderings(records: Sequence[Record]) -> List[str]:
    """A sentence for each ordering that is known from the papers."""
    densities = sorted({record.density for record in records} - {1.0})
    low = densities[: max(len(densities) // 2, 1)]  # where methods differ
    methods = {record.method for record in records}
    expected = [("magnitude, iterative", "magnitude, one shot"), ("magnitude, cubic", "magnitude, one shot")]
    expected += [("RigL", "SET"), ("SET", "random")]
    expected += [(method, "random") for method in METHODS if method not in ("dense", "random", "SET")]
    lines = []
    for better, worse in expected:
        if not {better, worse} <= methods:
            continue
        found = compare(records, better, worse, low)
        if found.pairs:
            lines.append(
                f"- {better} above {worse}: **{found.verdict}**, {100 * found.difference:+.1f} ± "
                f"{100 * found.error:.1f} points ({found.pairs} pairs at {', '.join(f'{each:.1%}' for each in low)})"
            )
    return lines
