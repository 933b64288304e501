"""Errors against density, a line for each method, on two logarithmic axes: the better, the higher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..report.needs import needed
from ..report.png import write_png
from .records import Record
from .report import Cell, cells

__all__ = ["draw"]

# Okabe and Ito's palette, told apart by those who are colour-blind; a second line of a colour is dashed.
STYLES: Dict[str, Tuple[str, str]] = {
    "magnitude, one shot": ("#7F7F7F", "-"),
    "magnitude, iterative": ("#0072B2", "-"),
    "magnitude, cubic": ("#0072B2", "--"),
    "lottery rewinding": ("#1a1a1a", "-"),
    "random": ("#7F7F7F", "--"),
    "SNIP": ("#009E73", "-"),
    "GraSP": ("#009E73", "--"),
    "SynFlow": ("#009E73", ":"),
    "SET": ("#D55E00", "--"),
    "RigL": ("#D55E00", "-"),
    "PruneFL": ("#C0619B", "-"),
}
TICKS = (4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
BY = "mpl_sparse.experiments"
GROUPS = (
    (
        "Pruned during training",
        ("magnitude, iterative", "magnitude, cubic", "magnitude, one shot", "lottery rewinding"),
    ),
    ("Sparse from the start", ("RigL", "PruneFL", "SET", "SynFlow", "SNIP", "GraSP", "random")),
)


def draw(records: Sequence[Record], file: Path) -> Path:
    """A PNG with two panels: the methods that prune on the way, and those that are sparse from the start."""
    found = cells(records)
    whole = found.get("dense", {}).get(1.0)
    groups = [(title, {each: found[each] for each in methods if each in found}) for title, methods in GROUPS]
    groups = [(title, rows) for title, rows in groups if rows]
    style = {"font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": "#b0b0b0"}
    with needed("matplotlib", by=BY).rc_context(style):
        figure = needed("matplotlib.figure", by=BY).Figure(figsize=(11.5, 5), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        panels = figure.subplots(1, max(len(groups), 1), sharey=True, squeeze=False)
        for panel, (title, rows) in zip(panels[0], groups):
            _panel(panel, rows, whole)
            panel.set_title(title, loc="left", fontweight="bold", fontsize=11)
        panels[0][0].set_ylabel("errors on held-out digits, %", color="#404040")
        write_png(figure, file)
    return file


def _panel(panel: Any, rows: Dict[str, Dict[float, Cell]], whole: Optional[Cell]) -> None:
    densities = sorted({density for row in rows.values() for density in row})
    ends: List[Tuple[float, str]] = []
    for method, row in rows.items():
        colour, dashes = STYLES[method]
        xs = sorted(row)
        means = [_errors(row[x].mean) for x in xs]
        best, worst = ([_errors(row[x].mean + sign * row[x].deviation) for x in xs] for sign in (1, -1))
        panel.fill_between(xs, best, worst, color=colour, alpha=0.07, linewidth=0)
        panel.plot(xs, means, color=colour, linestyle=dashes, linewidth=2, marker="o", markersize=3.5)
        ends.append((math.log10(means[0]), method))
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(100, 4)
    panel.set_xlim(densities[-1] * 1.2, densities[0] / 4.5)
    panel.set_xticks(densities, [f"{density:.3g}" for density in densities])
    panel.set_yticks(TICKS, [str(tick) for tick in TICKS])
    panel.minorticks_off()
    panel.set_xlabel("density: the share of weights that stay", color="#404040")
    if whole is not None:
        panel.axhline(_errors(whole.mean), color="#b0b0b0", linewidth=1)
        place = {"textcoords": "offset points", "color": "#6b6b6b", "fontsize": 9, "ha": "left"}
        panel.annotate("dense", (densities[-1] * 1.15, _errors(whole.mean)), (0, 4), **place)
    panel.grid(color="#ececec", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", length=0, colors="#404040")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    heights = _apart([end for end, _ in sorted(ends)], math.log10(100 / 4) / 22)
    for height, (_, method) in zip(heights, sorted(ends)):
        place = {"color": STYLES[method][0], "fontsize": 9.5, "va": "center", "ha": "left"}
        panel.annotate(method, (densities[0] / 1.12, 10**height), **place)


def _errors(accuracy: float) -> float:
    """In per cent, within the picture."""
    return min(max(100 * (1 - accuracy), 1.0), 100.0)


def _apart(heights: List[float], least: float) -> List[float]:
    """The heights, increasing, moved up or down until each is `least` above the one before."""
    placed = list(heights)
    for _ in range(200):
        for k in range(1, len(placed)):
            if placed[k] - placed[k - 1] < least:
                middle = (placed[k] + placed[k - 1]) / 2
                placed[k - 1], placed[k] = middle - least / 2, middle + least / 2
    return placed
