"""Where torchvision is missing, or was built for another torch, its models say so in one sentence."""

import sys

import pytest

pytest.importorskip("torch")

from mpl_sparse import models


@pytest.fixture
def no_torchvision(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)


def test_what_to_install(no_torchvision):
    with pytest.raises(
        ImportError, match="mpl_sparse.models.resnet18 is a model of torchvision, which is not installed"
    ):
        models.resnet18()
    with pytest.raises(ImportError, match="pip install torchvision"):
        models.get_model("vit_b_16", weights=None)
    monkey = vars(models).pop("RegNet", None)  # found before
    with pytest.raises(ImportError, match="mpl_sparse.models.RegNet is a model of torchvision"):
        _ = models.RegNet
    if monkey is not None:
        models.RegNet = monkey


def test_what_needs_no_torchvision_works(no_torchvision):
    assert "resnet18" in models.list_models() and "resnet18" in dir(models)
    assert models.get_model("lenet5").density() == 1


def test_a_build_for_another_torch(no_torchvision, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torchvision")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match="does not fit this torch .operator torchvision::nms does not exist.: install"
    ):
        models.resnet18()


def test_a_version_without_the_model(no_torchvision, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torchvision")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    (tmp_path / "torchvision" / "models.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="not of the version that is installed: pip install --upgrade torchvision"):
        models.maxvit_t()
    sys.modules.pop("torchvision.models", None)
