"""The records as pictures: a panel a class of layers, speed-up against sparsity."""

from __future__ import annotations

import importlib.util
from math import log
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from .layers import KINDS, TARGETS
from .records import Record, break_even
from .report import OURS, threads_in_words
from .task import FORWARD, MODELS, TRAINING

# Okabe and Ito's palette, without its yellow, which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
GREY = "#6b6b6b"
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
SPEEDUPS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
MIN_WIDTH, HEADING = 9.5, 1.05  # inches; the heading is above the panels
LABEL_GAP = 0.066  # between labels at the right, as a share of a panel's height


def draw_all(records: Sequence[Record], folder: Path) -> List[Path]:
    """A PNG for the forward at batch 1 with whole models, one for larger batches and one for training, of each backend
    and number of threads; a line instead where matplotlib is not installed.
    """
    if not importlib.util.find_spec("matplotlib"):
        print("without pictures: matplotlib is not installed")
        return []
    pictures = []
    for setting in dict.fromkeys((record.case.backend, record.case.threads) for record in records):
        own = [record for record in records if (record.case.backend, record.case.threads) == setting]
        one = [record for record in own if record.case.batch == 1]
        figures = {
            "forward": ("Forward, batch 1", [record for record in one if record.case.what in (FORWARD, MODELS)]),
            "forward-batches": ("Forward, larger batches", [r for r in own if r not in one and r.case.what == FORWARD]),
            "training": ("Training step, batch 1", [record for record in one if record.case.what == TRAINING]),
        }
        for stem, (title, some) in figures.items():
            if some:
                suffix = f"{setting[0]}-{threads_in_words(setting[1]).replace(' ', '-')}"
                pictures.append(_draw(some, title, folder / f"{stem}-{suffix}.png"))
    return pictures


def _draw(records: Sequence[Record], title: str, file: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [kind for kind in KINDS if any(record.kind == kind for record in records)]
    columns = min(4 if len(kinds) > 6 else 3, len(kinds))
    rows = -(-len(kinds) // columns)
    size = (max(3.9 * columns, MIN_WIDTH), 3.7 * rows + HEADING)
    style = {"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 12, "axes.edgecolor": "#b0b0b0"}
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, rect=(0, 0, 1, 1 - HEADING / size[1]))
        for panel, kind in zip(panels.flat, kinds):
            _panel(panel, kind, [record for record in records if record.kind == kind])
        for panel in panels.flat[len(kinds) :]:
            panel.axis("off")
        _heading(figure, records, title)
        figure.savefig(file, dpi=130, facecolor="white")
        pyplot.close(figure)
    return file


def _panel(panel: Any, kind: str, records: Sequence[Record]) -> None:
    from matplotlib.ticker import NullLocator

    lines = [line for record in records for line in _lines(record)]
    highest = max(max(y for _, y in points) for _, points in lines)
    lowest = min(min(y for _, y in points) for _, points in lines)
    sparsities = sorted({x for _, points in lines for x, _ in points})
    aims = _targets(records, sparsities)
    panel.set_yscale("log")
    panel.set_ylim(min(0.5, lowest / 1.3), 1.4 * max(4.0, highest, *(y for _, y in aims)))
    panel.set_xlim(_x(sparsities[0]) - 0.15, _x(sparsities[-1]) + 0.15)
    panel.axhspan(panel.get_ylim()[0], 1, color="#f3f3f3", zorder=0)
    panel.axhline(1, color=GREY, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for x, y in aims:
        panel.plot(_x(x), y, marker="D", markersize=6, color="none", markeredgecolor="#9a9a9a", zorder=2)
    labels = []
    for colour, (label, points) in zip(COLOURS * 3, lines):
        xs, ys = [_x(x) for x, _ in points], [y for _, y in points]
        panel.plot(xs, ys, color=colour, linewidth=1.7, marker="o", markersize=3.2, zorder=3)
        crossing = break_even(points)
        if crossing is not None and crossing > points[0][0]:
            panel.plot(_x(crossing), 1, marker="o", markersize=8, color="white", markeredgecolor=colour, zorder=4)
        labels.append((label, colour, ys[-1]))
    _write_labels(panel, labels)
    ticks = [tick for tick in TICKS if tick in sparsities] or sparsities
    panel.set_xticks([_x(tick) for tick in ticks], [f"{100 * tick:.3g}" for tick in ticks])
    low, high = panel.get_ylim()
    shown = [value for value in SPEEDUPS if low <= value <= high]
    panel.set_yticks(shown, [f"{value:g}×" for value in shown])
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.set_title(kind, loc="left", fontweight="bold")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0, colors="#404040")


def _write_labels(panel: Any, labels: Sequence[Tuple[str, str, float]]) -> None:
    """Each at the end of its line, moved up or down as far as needed to keep clear of the next."""
    low, high = panel.get_ylim()
    ordered = sorted(labels, key=lambda label: label[2])
    ends = [(log(y) - log(low)) / (log(high) - log(low)) for _, _, y in ordered]
    places = list(ends)
    for _ in range(300):
        for below in range(len(places) - 1):
            overlap = LABEL_GAP - (places[below + 1] - places[below])
            if overlap > 0:
                places[below] -= overlap / 2
                places[below + 1] += overlap / 2
        lift = max(0.0, 0.02 - places[0])
        places = [place + lift for place in places]
    for (label, colour, _), end, place in zip(ordered, ends, places):
        panel.annotate(
            label,
            xy=(0.985, end),
            xytext=(1.035, place),
            xycoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
        )


def _heading(figure: Any, records: Sequence[Record], title: str) -> None:
    from matplotlib.lines import Line2D

    case, around = records[0].case, records[0].circumstances
    left, height = 0.1 / figure.get_figwidth(), figure.get_figheight()
    setting = f"{case.backend}, {threads_in_words(case.threads)}, float32, commit {around['commit']}"
    figure.text(left, 1 - 0.14 / height, f"{title}: times faster than dense PyTorch", fontsize=16, va="top")
    about = f"by percentage of pruned weights; {around['machine']}, {setting}"
    figure.text(left, 1 - 0.47 / height, about, color=GREY, va="top")
    keys = [
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), label="as fast as dense"),
        Line2D([], [], marker="o", markersize=8, color="white", markeredgecolor=GREY, label="break-even"),
        Line2D([], [], marker="D", markersize=6, color="none", markeredgecolor="#9a9a9a", label="aim"),
    ]
    place = (left / 2, 1 - 0.7 / height)
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=place, ncols=3, frameon=False, borderaxespad=0)


def _label(record: Record) -> str:
    name = record.case.layer
    for word in ("linear ", "depthwise ", "stride 2 " if record.kind == "3x3 stride 2" else "\0"):
        name = name.replace(word, "")
    if record.kind in ("3x3", "3x3 stride 2", "1x1"):
        name = name.split(" ", 1)[1]
    return name + (f", batch {record.case.batch}" if record.case.batch > 1 else "")


def _lines(record: Record) -> List[Tuple[str, List[Tuple[float, float]]]]:
    """The label and the points of ours; of a model also when it is fused."""
    fused = f"{OURS}, fused"
    found = []
    for peer in (OURS, fused):
        ratios = [(sparsity, record.speedup(peer, sparsity)) for sparsity in record.sparsities]
        points = [(sparsity, ratio.median) for sparsity, ratio in ratios if ratio]
        if points:
            found.append((_label(record) + (", fused" if peer == fused else ""), points))
    return found


def _targets(records: Sequence[Record], sparsities: Sequence[float]) -> List[Tuple[float, float]]:
    found: Dict[Tuple[float, float], None] = {}
    for record in records:
        aims = TARGETS.get((record.case.what, record.kind, record.case.batch), {})
        found.update(dict.fromkeys((sparsity, aim) for sparsity, aim in aims.items() if sparsity in sparsities))
    return list(found)


def _x(sparsity: float) -> float:
    """Where a sparsity stands: by the logarithm of density, in which an ideal speed-up is a straight line."""
    return -log(1 - sparsity)
