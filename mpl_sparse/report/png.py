"""What the pictures share: where they may be written, how, and how much room the names of layers take."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any, List, Sequence, Tuple, Union

from .needs import needed

__all__ = ["name_layers", "png_path", "write_png"]

DPI, MOST_PIXELS = 130, 60_000  # the renderer's own limit is 2**16
LONGEST_NAME = 44


def png_path(path: Union[str, os.PathLike[str]]) -> Path:
    """ValueError if it does not end in .png, FileNotFoundError if its folder does not exist."""
    file = Path(path)
    if file.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "path must be in a folder that exists", str(path))
    return file


def write_png(figure: Any, file: Path) -> None:
    """Write beside the file, then move: who reads it finds the old one or the new one, whole."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=min(DPI, MOST_PIXELS / max(figure.get_size_inches())), facecolor="white")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(picture.getvalue())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def name_layers(figure: Any, names: Sequence[str], font: float, by: str) -> Tuple[List[str], float]:
    """The names as they are written, long ones without their middle, and the width of the widest in inches."""
    names = [_short(name) for name in names]
    renderer = needed("matplotlib.backends.backend_agg", by=by).FigureCanvasAgg(figure).get_renderer()
    text = figure.text(0, 0, "", fontsize=font, parse_math=False)
    widths = []
    for name in sorted(names, key=len)[-9:]:  # the widest is among the longest, or hardly wider
        text.set_text(name)
        widths.append(text.get_window_extent(renderer).width / figure.dpi)
    text.remove()
    return names, max(widths)


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    start = LONGEST_NAME // 4
    return f"{name[:start]}…{name[start + 1 - LONGEST_NAME :]}"
