"""The time model: its fit against known coefficients, conditions of optimality, and a real run."""

from __future__ import annotations

import copy
import json
import math

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseLSTM, prunable, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.pruning.time_model import (  # noqa: E402
    TimeModel,
    fit_time_model,
    measure_time_model,
    non_negative_least_squares,
)


class Machine:
    """A clock that a step of the model moves by what a time model says, and a step that does."""

    def __init__(self, model):
        self.model, self.now, self.counts = model, 100.0, []

    def clock(self):
        return self.now

    def step(self, copied):
        counts = {name: layer.num_weight for name, layer in prunable_layers(copied)}
        self.counts.append(counts)
        self.now += self.model.seconds(counts)


def network():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(128, 10)
    )
    prunable(model)
    for _, layer in prunable_layers(model):
        layer.random_prune_by_pct(0.5)
    return model


@pytest.mark.parametrize("form", [lambda model: model, to_sparse], ids=["masked", "sparse"])
@pytest.mark.parametrize("times", [(2e-3, 5e-9, 1e-9), (0.0, 3e-9, 0.0), (1e-3, 0.0, 2e-9), (1e-3, 0.0, 0.0)])
def test_known_times_come_back(form, times):
    truth = TimeModel(times[0], {"0": times[1], "5": times[2]})
    machine = Machine(truth)
    found = measure_time_model(form(network()), None, step=machine.step, clock=machine.clock, repeats=1, warmups=0)
    assert found.constant == pytest.approx(truth.constant, rel=1e-6, abs=1e-12)
    for name, seconds in truth.per_weight.items():
        assert found.per_weight[name] == pytest.approx(seconds, rel=1e-6, abs=1e-15)


def test_every_case_is_warmed_up_and_the_median_counts():
    machine = Machine(TimeModel(1.0, {"0": 0.5, "5": 0.25}))
    runs = []

    def step(copied):
        machine.step(copied)
        runs.append(len(runs))
        if runs[-1] % 7 in (0, 1, 2, 5):  # three warm-ups and one of three measured runs: as slow as they like
            machine.now += 1000.0

    found = measure_time_model(network(), None, step=step, clock=machine.clock, warmups=3, repeats=4)
    assert len(runs) == (1 + 2 * 2) * 7
    assert found.constant == pytest.approx(1.0, rel=1e-6)
    counts = machine.counts[::7]
    assert [each["0"] for each in counts[3:]] == [counts[0]["0"]] * 2  # one layer after the other
    assert counts[0]["0"] < counts[1]["0"] < counts[2]["0"] and counts[0]["5"] < counts[3]["5"] < counts[4]["5"]


@given(data=st.data(), rows=st.integers(1, 8), columns=st.integers(1, 5))
def test_least_squares_that_are_not_negative(data, rows, columns):
    numbers = st.floats(-4, 4).map(lambda number: round(number, 2))
    matrix = np.array(data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns)))
    matrix = matrix.reshape(rows, columns)
    target = np.array(data.draw(st.lists(numbers, min_size=rows, max_size=rows)))
    found = non_negative_least_squares(matrix, target)
    # the problem is convex: these conditions hold at its minimum and nowhere else
    gradient = matrix.T @ (matrix @ found - target)
    assert (found >= 0).all()
    assert (gradient >= -1e-7).all() and (np.abs(gradient[found > 0]) <= 1e-7).all()


@pytest.mark.parametrize("form", [lambda model: model, to_sparse], ids=["masked", "sparse"])
def test_a_real_run_leaves_the_model_as_it_was(form):
    model = form(network()).eval()
    model[0].train()
    example = torch.randn(4, 3, 4, 4, requires_grad=True)
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    flags = {name: module.training for name, module in model.named_modules()}
    patterns = {name: layer.pattern for name, layer in prunable_layers(model)}
    state = torch.random.get_rng_state()
    found = measure_time_model(model, example, densities=[0.3, 1.0], warmups=1, repeats=2)
    assert torch.equal(torch.random.get_rng_state(), state) and example.grad is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(parameter.grad, grads[name]) for name, parameter in model.named_parameters())
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert {name: layer.pattern for name, layer in prunable_layers(model)} == patterns
    assert found.per_weight.keys() == {"0", "5"}
    times = [found.constant, *found.per_weight.values()]
    assert all(math.isfinite(each) and each >= 0 for each in times) and any(times)


def test_arguments_by_place_and_by_name():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b=None):
            return {"sum": self.layer(a) + self.layer(b), "other": (a.sum(), 3)}

    model = prunable(Sum())
    few = dict(densities=[0.5, 1.0], warmups=0, repeats=1)
    inputs = torch.ones(4, 3)
    for example in ((inputs, inputs), [inputs, inputs], {"b": inputs, "a": inputs}):
        assert measure_time_model(model, example, **few).per_weight.keys() == {"layer"}
    with pytest.raises(TypeError):
        measure_time_model(model, inputs, **few)


def test_lstm_children_have_their_own_times():
    found = measure_time_model(DenseLSTM(3, 4), torch.randn(5, 2, 3), densities=[0.5, 1.0], warmups=0, repeats=1)
    assert found.per_weight.keys() == {"ih_l0", "hh_l0"}


def test_seconds_and_printing_and_saving(tmp_path):
    times = TimeModel(0.25, {"a": 1e-9, "head.b": 2.5e-9})
    assert times.seconds({"a": 10**9, "head.b": 2 * 10**9}) == pytest.approx(6.25)
    assert str(times) == "250.000 ms, and for each weight of\n  a         1.0000 ns\n  head.b    2.5000 ns"
    mpl_sparse.save(times.to_dict(), tmp_path / "times")
    for entries in (mpl_sparse.load(tmp_path / "times"), json.loads(json.dumps(times.to_dict()))):
        assert TimeModel.from_dict(entries) == times


def test_refusals():
    with pytest.raises(ValueError, match="time of 'a' must be finite and at least 0, got -1"):
        TimeModel(0.0, {"a": -1})
    with pytest.raises(ValueError, match="time of 'constant' must be finite"):
        TimeModel(math.nan, {})
    with pytest.raises(ValueError, match=r"weights must be of the layers \['a'\], got \['b'\]"):
        TimeModel(0.0, {"a": 1}).seconds({"b": 3})
    with pytest.raises(ValueError, match="entries must be those of to_dict"):
        TimeModel.from_dict({"constant": 3})
    with pytest.raises(TypeError, match="model must be an nn.Module, got int"):
        measure_time_model(3, None)
    with pytest.raises(ValueError, match="no prunable layer"):
        measure_time_model(nn.Linear(2, 2), torch.ones(1, 2))
    model = network()
    for wrong in ([0.5], [0.5, 0.2], [0.0, 0.5], [0.5, 1.1], [0.5, 0.5]):
        with pytest.raises(ValueError, match="densities must be two or more"):
            measure_time_model(model, None, densities=wrong)
    for name, wrong in [("warmups", -1), ("repeats", 0), ("repeats", 1.5)]:
        with pytest.raises(ValueError, match=f"{name} must be an integer, at least"):
            measure_time_model(model, None, **{name: wrong})
    with pytest.raises(ValueError, match="same measurements, got 0 and 0"):
        fit_time_model([], [])
    with pytest.raises(ValueError, match=r"same layers in all measurements, those of the first are \['a'\]"):
        fit_time_model([{"a": 1}, {"b": 1}], [1.0, 2.0])
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="requires no gradient"):
        measure_time_model(frozen, torch.randn(2, 3, 4, 4))
