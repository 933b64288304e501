"""A summary as a picture: two panels of horizontal bars, a layer a line."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Union

from .layers import SPARSE_KINDS
from .needs import needed
from .png import name_layers, png_path, write_png
from .rounded import rounded

__all__ = ["draw"]

Row = Dict[str, Any]

SPARSE, DENSE, INK = "#0072B2", "#C3CAD3", "#303030"  # the blue of Okabe and Ito's palette
WIDTH, HEADING, FOOT, GAP = 11.0, 1.12, 0.3, 0.12  # inches
BAR = 0.72  # of the height of a line
BY = "Summary.plot"


def draw(rows: Sequence[Row], total: Row, path: Union[str, os.PathLike[str]]) -> None:
    """See `Summary.plot`. pyplot and its state are not touched."""
    if not rows:
        raise ValueError("there are no layers to plot: mpl_sparse.prunable(model) makes them prunable")
    file = png_path(path)
    line = min(0.3, max(0.15, 9.0 / len(rows)))  # inches
    font, height = min(9.0, 48 * line), line * len(rows)
    figure = needed("matplotlib.figure", by=BY).Figure(figsize=(WIDTH, HEADING + height + FOOT))
    names, widest = name_layers(figure, [row["name"] or row["kind"] for row in rows], font, by=BY)
    start = 2 * GAP + widest
    middle = start + 0.4 * (WIDTH - start)
    left, right = (
        figure.add_axes((x / WIDTH, FOOT / figure.get_figheight(), width / WIDTH, height / figure.get_figheight()))
        for x, width in ((start, middle - start - 2 * GAP), (middle, WIDTH - middle - GAP))
    )
    _densities(left, rows, font)
    what = _costs(right, rows, total, font)
    left.set_yticks(range(len(rows)), names, fontsize=font, parse_math=False)
    right.set_yticks(())
    for panel in (left, right):
        panel.set_ylim(len(rows) - 0.5, -0.5)
    _heading(figure, total, what)
    write_png(figure, file)


def _densities(panel: Any, rows: Sequence[Row], font: float) -> None:
    places = range(len(rows))
    _bars(panel, places, [1] * len(rows), BAR, DENSE)
    _bars(panel, places, [row["density"] for row in rows], BAR, SPARSE)
    _write(panel, [1] * len(rows), [f"{row['density']:.1%}" for row in rows], font)
    _dress(panel, "density", 1.0, room=1.22)
    panel.set_xticks((0, 0.5, 1), ("0", "50%", "100%"))


def _costs(panel: Any, rows: Sequence[Row], total: Row, font: float) -> str:
    """Time, if there is one, else multiply-adds, else bytes. The meaning of the colours, in the heading's words."""
    places = range(len(rows))
    if "ms" in total:
        times = [row["ms"] for row in rows]
        _bars(panel, places, times, BAR, [SPARSE if row["kind"] in SPARSE_KINDS else DENSE for row in rows])
        _write(panel, times, [f"{ms:.3g}" for ms in times], font)
        _dress(panel, f"time, ms (together {total['ms']:.4g})", max(times), room=1.12)
        return "ms"
    what = "multiply_adds" if "dense_multiply_adds" in total else "bytes"
    title, word = ("multiply-adds", "of") if what == "multiply_adds" else ("bytes", "vs")
    dense, sparse = ([row[f"{kind}_{what}"] for row in rows] for kind in ("dense", "sparse"))
    # side by side: a weight may take more bytes sparse than dense
    half, longest = BAR / 2, [max(few or 0, many or 0) for few, many in zip(sparse, dense)]
    _bars(panel, [place - half / 2 for place in places], [many or 0 for many in dense], half, DENSE)
    _bars(panel, [place + half / 2 for place in places], [few or 0 for few in sparse], half, SPARSE)
    labels = [
        "not known" if few is None else f"{rounded(few)} {word} {rounded(many)}" for few, many in zip(sparse, dense)
    ]
    _write(panel, longest, labels, font)
    together = f"{rounded(total[f'sparse_{what}'])} {word} {rounded(total[f'dense_{what}'])}"
    _dress(panel, f"{title} (together {together})", max(longest), room=1.32)
    panel.xaxis.set_major_formatter(lambda value, _: rounded(value))
    return what


def _bars(
    panel: Any, places: Sequence[float], lengths: Sequence[float], height: float, colours: Union[str, List[str]]
) -> None:
    """As panel.barh, but one artist for all: hundreds of bars are drawn in a moment."""
    low, high = -height / 2, height / 2
    corners = [
        [(0, place + low), (length, place + low), (length, place + high), (0, place + high)]
        for place, length in zip(places, lengths)
    ]
    bars = needed("matplotlib.collections", by=BY).PolyCollection(corners, facecolors=colours, linewidths=0)
    panel.add_collection(bars, autolim=False)


def _write(panel: Any, ends: Sequence[float], labels: Sequence[str], font: float) -> None:
    for place, (end, label) in enumerate(zip(ends, labels)):
        panel.annotate(
            label,
            (end, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=font,
            color=INK,
        )


def _dress(panel: Any, title: str, longest: float, room: float) -> None:
    """`room` is the width of the panel, for the labels too, in longest bars."""
    panel.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    panel.set_xlim(0, room * (longest or 1))
    panel.xaxis.set_major_locator(needed("matplotlib.ticker", by=BY).MaxNLocator(4))
    panel.tick_params(length=0, labelcolor=INK)
    panel.tick_params(axis="x", labelsize=9)
    panel.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _heading(figure: Any, total: Row, what: str) -> None:
    patch = needed("matplotlib.patches", by=BY).Patch
    left, height = GAP / WIDTH, figure.get_figheight()
    title = f"{rounded(total['nnz'])} of {rounded(total['numel'])} weights are left: {total['density']:.1%}"
    figure.text(left, 1 - 0.12 / height, title, fontsize=15, va="top", color=INK)
    if what == "ms":
        sparse, dense = "weights left; time of a sparse layer", "weights pruned; time of a dense layer"
    else:
        sparse, dense = "sparse: what is left", "dense: as if nothing were pruned"
    keys = [patch(color=SPARSE, label=sparse), patch(color=DENSE, label=dense)]
    place = (left / 2, 1 - 0.45 / height)
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=place, ncols=2, frameon=False, borderaxespad=0)
