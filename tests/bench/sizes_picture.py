"""The sizes of positions as a picture: bits per nonzero against density, and how far ours is from the bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

# Okabe and Ito's palette: told apart by those who are colour-blind.
STYLES: Dict[str, Tuple[str, Any]] = {
    "ours": ("#D55E00", "-"),
    "bitmap": ("#0072B2", "-"),
    "CSR int32": ("#009E73", "-"),
    "COO int64": ("#7F7F7F", "-"),
    "varint gaps": ("#CC79A7", "-"),
    "Elias-Fano": ("#56B4E9", "-"),
    "zstd -19 of bitmap": ("#E69F00", "-"),
}
BOUND = "#1a1a1a"
TICKS = (0.0001, 0.001, 0.01, 0.03125, 0.1, 0.25, 0.5, 0.99)


def draw(found: Sequence[Any], file: Path) -> Path:
    """A PNG of the random masks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    random = [sizes for sizes in found if sizes.kind == "random"]
    style = {"font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": "#b0b0b0"}
    with pyplot.rc_context(style):
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(9.5, 7.6), height_ratios=[4, 1], sharex=True, layout="constrained"
        )
        _sizes(above, random)
        _ratios(below, random)
        figure.savefig(file, dpi=130, facecolor="white")
        pyplot.close(figure)
    return file


def _sizes(panel: Any, found: Sequence[Any]) -> None:
    densities = [sizes.density for sizes in found]
    lines: Dict[str, List[float]] = {
        name: [sizes.bits(sizes.peers[name]) for sizes in found] for name in STYLES if name in found[0].peers
    }
    lines["bitmap"] = [sizes.bits(sizes.codings["bitmap"][0]) for sizes in found]
    lines["ours"] = [sizes.bits(sizes.chosen) for sizes in found]
    for name, values in lines.items():
        colour, dashes = STYLES[name]
        wide = name == "ours"
        panel.plot(
            densities, values, color=colour, linestyle=dashes, linewidth=2.8 if wide else 1.5, zorder=4 if wide else 3
        )
    bound = [sizes.bits(sizes.bound) for sizes in found]
    panel.plot(densities, bound, color=BOUND, linewidth=1.1, linestyle=(0, (3, 2)), zorder=5)
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.set_ylim(0.5, 300)
    _ticks(panel, (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256))
    panel.set_title("Bits for the position of a nonzero, by density: random masks", loc="left", fontweight="bold")


def _ratios(panel: Any, found: Sequence[Any]) -> None:
    panel.plot([sizes.density for sizes in found], [sizes.chosen / sizes.bound for sizes in found], color="#D55E00")
    panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])


def _ticks(panel: Any, ticks: Sequence[float]) -> None:
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
