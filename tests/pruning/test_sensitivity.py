"""Sensitivity: against pruning copies by hand; the model as it was; the table, the dict and the picture."""

from __future__ import annotations

import copy
import json

import pytest

torch = pytest.importorskip("torch")

import odd_models  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from odd_models import batches, odd_forms  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse import optim, pruning  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402
from mpl_sparse.pruning import NM, SNIP, Sensitivity, sensitivity  # noqa: E402

every_form = pytest.mark.parametrize("form", odd_models.FORMS)


def evaluate(model):
    with torch.no_grad():
        return sum(-F.cross_entropy(model.eval()(inputs), classes).item() for inputs, classes in batches(1))


def everything(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    flags = {name: module.training for name, module in model.named_modules()}
    ids = {name: id(parameter) for name, parameter in model.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, grads, flags, ids


@every_form
@pytest.mark.parametrize("score", ["magnitude", "snip"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_each_layer_alone(form, score, granularity):
    _, model, _ = odd_forms(form)
    data = batches(1) if score == "snip" else None
    found = sensitivity(model, evaluate, [0.3, 0.05], score=score, granularity=granularity, data=data)
    assert found.layers == tuple(name for name, _ in prunable_layers(model))
    assert found.densities == (0.3, 0.05) and found.baseline == evaluate(model)
    for name, row in zip(found.layers, found.accuracies):
        for density, value in zip(found.densities, row):
            twin = copy.deepcopy(model)
            pruning.prune(twin.train(), {name: density}, score=score, granularity=granularity, data=data)
            assert value == pytest.approx(evaluate(twin), rel=1e-12)


@every_form
def test_the_model_comes_out_as_it_went_in(form):
    _, model, _ = odd_forms(form)
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    before, patterns = everything(model), [layer.pattern for _, layer in prunable_layers(model)]

    def training(model):
        model.train()(batches()[0][0])  # batch norm's statistics move
        return 0.5

    sensitivity(model, training, [0.5, 0.0])
    for old, new in zip(before, everything(model)):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert patterns == [layer.pattern for _, layer in prunable_layers(model)]


@every_form
@pytest.mark.parametrize("last", [0, 1, 8])
def test_also_if_evaluate_raises(form, last):
    _, model, _ = odd_forms(form)
    before, calls = everything(model), []

    def failing(model):
        model.eval()
        calls.append(1)
        if len(calls) > last:
            raise KeyError("the user's own")
        return 0.5

    with pytest.raises(KeyError, match="the user's own"):
        sensitivity(model, failing, [0.1])
    for old, new in zip(before, everything(model)):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


def test_an_optimizer_notices_nothing():
    results = []
    for look in (False, True):
        _, model, _ = odd_forms("sparse")
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for inputs, classes in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), classes).backward()
            optimizer.step()
            if look:
                sensitivity(model, lambda model: 0.5, [0.1])
        results.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def sample():
    return Sensitivity(["features.0", "classifier"], [0.5, 0.1, 0.05], [[0.9, 0.8, 0.85], [0.91, 0.9, 0.2]], 0.92)


def test_table_and_dict():
    assert str(sample()).splitlines() == [
        "not pruned: 0.9200; by density:",
        "layer          0.5     0.1    0.05",
        "----------------------------------",
        "features.0  0.9000  0.8000  0.8500",
        "classifier  0.9100  0.9000  0.2000",
    ]
    assert json.loads(json.dumps(sample().to_dict())) == {
        "layers": ["features.0", "classifier"],
        "densities": [0.5, 0.1, 0.05],
        "accuracies": [[0.9, 0.8, 0.85], [0.91, 0.9, 0.2]],
        "baseline": 0.92,
    }


def test_densities_within():
    assert sample().densities_within(0.03) == {"features.0": 0.5, "classifier": 0.1}
    assert sample().densities_within(0.0) == {"features.0": 1.0, "classifier": 1.0}
    assert sample().densities_within(1) == {"features.0": 0.05, "classifier": 0.05}


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    sample().plot(tmp_path / "one.png")
    more = Sensitivity(["features.0", "classifier"], [0.5, 0.1], [[0.92, 0.92], [0.92, 0.1]], 0.92)
    more.plot(tmp_path / "two.png")
    one, two = (image.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert one.shape[0] == two.shape[0] and min(one.shape[:2]) > 100

    def orange(picture):  # of the cells, not of the scale beside them
        picture = picture[:, : int(0.8 * picture.shape[1])]
        return ((picture[..., 0] > 0.75) & (picture[..., 1] < 0.45) & (picture[..., 2] < 0.2)).sum()

    assert orange(one) > 1000 and orange(two) > 1000
    flat = Sensitivity(["layer"], [0.5], [[0.5]], 0.5)
    flat.plot(tmp_path / "flat.png")
    assert not orange(image.imread(str(tmp_path / "flat.png")))


def test_bad_paths(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"path must end in .png, got 'heat.jpg'"):
        sample().plot("heat.jpg")
    with pytest.raises(FileNotFoundError, match="path must be in a folder that exists"):
        sample().plot(tmp_path / "none" / "heat.png")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"evaluate": 3}, TypeError, "evaluate must be a function of the model, got 3"),
        ({"evaluate": lambda model: float("nan")}, ValueError, "the result of evaluate must be finite"),
        ({"evaluate": lambda model: "good"}, TypeError, "the result of evaluate must be a real number"),
        ({"densities": []}, TypeError, "densities must be a sequence of at least one number"),
        ({"densities": "0.5"}, TypeError, "densities must be a sequence"),
        ({"densities": [0.5, 1.5]}, ValueError, r"density must be in \[0, 1\], got 1.5"),
        ({"granularity": NM(1, 2)}, ValueError, "decides itself how many weights stay"),
        ({"score": SNIP}, TypeError, r"make one, SNIP\(data\)"),
    ],
)
def test_bad_arguments(arguments, error, words):
    model = pruning.prune(nn.Sequential(nn.Linear(4, 4)), 0.5)
    with pytest.raises(error, match=words):
        sensitivity(model, **{"evaluate": lambda model: 0.5, **arguments})
    assert model[0].num_weight == 8


class Counting(nn.Module):
    """With a buffer that is called as those of masked layers are, and that is written by a forward."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.register_buffer("mask", torch.zeros(()))

    def forward(self, input):
        self.mask += 1
        return self.inner(input)


def test_a_buffer_by_the_name_of_a_mask_comes_out_as_it_went_in():
    model = Counting()
    sensitivity(model, lambda model: model(torch.ones(2, 4)).mean().item(), [0.5])
    assert model.mask == 0
