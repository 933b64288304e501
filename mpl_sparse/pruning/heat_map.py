"""A sensitivity as a picture: a layer a line, a density a column."""

from __future__ import annotations

import os
from typing import Any, Sequence, Union

from ..report.needs import needed
from ..report.png import name_layers, png_path, write_png

__all__ = ["draw"]

KEPT, LOST, INK = "#F3F5F8", "#D55E00", "#303030"  # the vermilion of Okabe and Ito's palette, and almost nothing
COLUMN, HEADING, FOOT, GAP, BAR = 0.74, 0.95, 0.62, 0.14, 0.16  # inches
BY = "Sensitivity.plot"


def draw(
    layers: Sequence[str],
    densities: Sequence[float],
    accuracies: Sequence[Sequence[float]],
    baseline: float,
    path: Union[str, os.PathLike[str]],
) -> None:
    """See `Sensitivity.plot`. pyplot and its state are not touched."""
    file = png_path(path)
    line = min(0.34, max(0.2, 12.0 / len(layers)))  # inches
    font = min(9.5, 34 * line)
    figure = needed("matplotlib.figure", by=BY).Figure()
    names, widest = name_layers(figure, [layer or "the layer" for layer in layers], font, by=BY)
    start = 2 * GAP + widest
    # in the order of the densities, whatever the order in which they were given; wide enough for the heading
    columns = sorted(range(len(densities)), key=lambda place: -densities[place])
    width, height = max(COLUMN * len(columns), 5.6 - start), line * len(layers)
    whole = (start + width + 3 * GAP + BAR + 0.62, HEADING + height + FOOT)
    figure.set_size_inches(whole)

    def place(left: float, bottom: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / whole[0], bottom / whole[1], wide / whole[0], high / whole[1]))

    table = [[row[column] for column in columns] for row in accuracies]
    colours = needed("matplotlib.colors", by=BY).LinearSegmentedColormap.from_list("loss", [KEPT, "#F0B68C", LOST])
    lowest = min(min(map(min, table)), baseline - 0.01 * (abs(baseline) or 1))  # what loses nothing is not coloured
    scale = needed("matplotlib.colors", by=BY).Normalize(lowest, baseline)
    panel = place(start, FOOT, width, height)
    panel.imshow(table, cmap=colours.reversed(), norm=scale, aspect="auto", interpolation="nearest")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            dark = scale(value) < 0.2
            colour = "white" if dark else INK
            panel.text(x, y, _written(value), ha="center", va="center_baseline", fontsize=font, color=colour)
    panel.set_xticks(range(len(columns)), [f"{densities[column]:.4g}" for column in columns], fontsize=font)
    panel.set_yticks(range(len(names)), names, fontsize=font, parse_math=False)
    panel.set_xticks([x - 0.5 for x in range(1, len(columns))], minor=True)
    panel.set_yticks([y - 0.5 for y in range(1, len(names))], minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="both", length=0, labelcolor=INK)
    panel.set_xlabel("density of the one layer that is pruned", fontsize=font, color=INK)
    legend = figure.colorbar(panel.images[0], cax=place(start + width + GAP, FOOT, BAR, height))
    legend.outline.set_visible(False)
    legend.ax.tick_params(length=0, labelcolor=INK, labelsize=font)
    legend.ax.yaxis.set_major_locator(needed("matplotlib.ticker", by=BY).MaxNLocator(min(5, max(1, int(height / 0.4)))))
    for spine in panel.spines.values():
        spine.set_visible(False)
    left, top = GAP / whole[0], 1 - 0.14 / whole[1]
    figure.text(left, top, "How much pruning each layer bears alone", fontsize=15, va="top", color=INK)
    below = f"accuracy of the whole model; not pruned it is {_written(baseline)}"
    figure.text(left, 1 - 0.55 / whole[1], below, fontsize=10, va="top", color=INK)
    write_png(figure, file)


def _written(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
