"""The sizes of positions as a picture: bits per nonzero against density, and how far ours is from the bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

# The label, a colour of Okabe and Ito's palette (told apart by those who are colour-blind; darker where it is text),
# and where the label begins: a density, and points above the line there.
STYLES: Dict[str, Tuple[str, str, float, int]] = {
    "COO int64": ("COO: two int64", "#7F7F7F", 0.00011, 5),
    "CSR int32": ("CSR int32", "#009E73", 0.09, 5),
    "original": ("an index each, from 1/32 on a bitmap", "#0072B2", 0.068, 3),
    "varint gaps": ("gaps in whole bytes", "#C0619B", 0.22, 5),
    "zstd -19 of bitmap": ("zstd -19 of the bitmap", "#B07C00", 0.0014, 5),
    "Elias-Fano": ("Elias-Fano", "#3A95CE", 0.42, 8),
}
OURS, BOUND, GREY = "#D55E00", "#1a1a1a", "#6b6b6b"
DENSITIES = (0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.99)
BITS = (0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def draw(found: Sequence[Any], file: Path) -> Path:
    """A PNG of the random masks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    random = [sizes for sizes in found if sizes.kind == "random"]
    style = {"font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": "#b0b0b0"}
    with pyplot.rc_context(style):
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(9.5, 8.4), height_ratios=[4.6, 1], sharex=True, layout="constrained"
        )
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
        _sizes(above, random)
        _ratios(below, random)
        for panel in (above, below):
            panel.grid(color="#ececec", linewidth=0.7)
            panel.set_axisbelow(True)
            panel.tick_params(which="both", length=0, colors="#404040")
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
        figure.savefig(file, dpi=120, facecolor="white")
        pyplot.close(figure)
    return file


def _sizes(panel: Any, found: Sequence[Any]) -> None:
    densities = [sizes.density for sizes in found]
    for peer, (label, colour, at, points) in STYLES.items():
        values = [sizes.bits(sizes.peers[peer]) for sizes in found]
        panel.plot(densities, values, color=colour, linewidth=1.6, zorder=3)
        _label(panel, label, colour, at, _between(densities, values, at), points)
    ours = [sizes.bits(sizes.chosen) for sizes in found]
    panel.plot(densities, ours, color=OURS, linewidth=4, alpha=0.85, solid_capstyle="round", zorder=4)
    panel.plot(densities, [sizes.bits(sizes.bound) for sizes in found], color=BOUND, linewidth=1.1, zorder=5)
    at = 0.00011
    _label(panel, "mpl-sparse, and in black the bound", OURS, at, _between(densities, ours, at), -32, "bold")
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.set_ylim(BITS[0], 1.7 * BITS[-1])
    panel.set_yticks(BITS, [f"{bits:g}" if bits >= 1 else f"1/{1 / bits:g}" for bits in BITS])
    panel.minorticks_off()
    panel.set_title("Bits that the position of a nonzero takes", loc="left", fontweight="bold", fontsize=12)


def _ratios(panel: Any, found: Sequence[Any]) -> None:
    densities = [sizes.density for sizes in found]
    ratios = [100 * (sizes.chosen / sizes.bound - 1) for sizes in found]
    panel.plot(densities, ratios, color=OURS, linewidth=1.8, marker="o", markersize=3.6, zorder=3)
    panel.axhline(2, color=GREY, linewidth=1.1, linestyle=(0, (4, 3)))
    _label(panel, "the aim: 2%", GREY, densities[0], 2, -14)
    panel.set_ylim(-0.15, 2.2)
    panel.set_yticks((0, 1, 2), ("0%", "1%", "2%"))
    panel.set_xticks(DENSITIES, [f"{density:g}" for density in DENSITIES])
    panel.minorticks_off()
    panel.set_xlim(densities[0] / 1.15, 1.25)
    panel.set_title("mpl-sparse above the bound", loc="left", fontweight="bold", fontsize=10)
    panel.set_xlabel("density of the mask (random positions)", color="#404040")


def _label(panel: Any, text: str, colour: str, x: float, y: float, points: int, weight: str = "normal") -> None:
    place = {"textcoords": "offset points", "va": "bottom", "ha": "left"}
    panel.annotate(text, (x, y), (0, points), color=colour, fontsize=9.5, weight=weight, **place)


def _between(xs: Sequence[float], ys: List[float], x: float) -> float:
    """The height of a line at x; its points stand in order."""
    import numpy as np

    return float(np.exp(np.interp(np.log(x), np.log(xs), np.log(ys))))
