"""Summary.plot: a PNG of any number of layers."""

from __future__ import annotations

import os
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, to_sparse  # noqa: E402
from mpl_sparse.report import summary  # noqa: E402


@pytest.fixture
def image():
    pytest.importorskip("matplotlib")
    return pytest.importorskip("matplotlib.image")


def stack(count):
    return nn.Sequential(*(DenseLinear(4, 4) for _ in range(count)))


def height_and_width(image, file):
    return image.imread(file).shape[:2]


def test_more_layers_make_a_higher_picture(image, tmp_path):
    sizes = []
    for count in (1, 3, 160):
        summary(stack(count), (1, 4)).plot(tmp_path / "layers.png")
        sizes.append(height_and_width(image, tmp_path / "layers.png"))
    heights, widths = zip(*sizes)
    assert len(set(widths)) == 1 and widths[0] > 1000
    assert 150 < heights[0] < heights[1] < 400 < 3000 < heights[2] < 4000


@pytest.mark.parametrize("arguments", [{}, {"input_size": (2, 3, 5, 6)}, {"input_size": (2, 3, 5, 6), "timed_runs": 1}])
def test_each_kind_of_summary(image, tmp_path, arguments):
    """Blue where something is left, grey where it is not: names with mathematics, an unknown count, an empty layer."""
    model = nn.Sequential(DenseConv2d(3, 5, 3), nn.Flatten(), DenseLinear(60, 7), nn.Bilinear(7, 7, 2))
    model[0].prune_by_pct(0.5)
    model[2].prune_by_pct(1.0)
    model[3].forward = lambda input: input
    wrapped = nn.Sequential()
    wrapped.add_module("$x^2_{$" + "a_long_name_" * 9, to_sparse(model))
    before = set(sys.modules)
    summary(wrapped, all_layers=True, **arguments).plot(str(tmp_path / "a.png"))
    pixels = (image.imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int).reshape(-1, 3).tolist()
    assert [0x00, 0x72, 0xB2] in pixels and [0xC3, 0xCA, 0xD3] in pixels
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    assert os.listdir(tmp_path) == ["a.png"]


def test_pyplot_is_left_alone(image, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    import matplotlib

    backend, parameters, figures = matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums()
    summary(stack(2)).plot(tmp_path / "a.png")
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums()) == (backend, parameters, figures)


def test_a_picture_that_fails_leaves_the_old_one(image, tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    summary(stack(1)).plot(file)
    old = file.read_bytes()
    monkeypatch.setattr(type(file), "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        summary(stack(3)).plot(file)
    assert file.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_cannot_be_plotted(tmp_path):
    with pytest.raises(ValueError, match="there are no layers to plot"):
        summary(nn.Linear(2, 3)).plot(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"path must end in \.png, got '.*a\.jpg'"):
        summary(stack(1)).plot(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="path must be in a folder that exists"):
        summary(stack(1)).plot(tmp_path / "none" / "a.png")
    assert os.listdir(tmp_path) == []


def test_matplotlib_is_asked_for_by_name(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Summary\.plot needs matplotlib: pip install matplotlib"):
        summary(stack(1)).plot(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_no_picture_is_too_large_for_the_renderer(image, tmp_path, monkeypatch):
    monkeypatch.setattr(mpl_sparse.report.png, "MOST_PIXELS", 400)
    summary(stack(5)).plot(tmp_path / "a.png")
    assert 390 <= max(height_and_width(image, tmp_path / "a.png")) <= 400
