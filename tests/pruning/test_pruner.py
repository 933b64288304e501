"""Pruner: counts along a schedule, early stop, and going on from files bit for bit."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import twins  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.pruning import (  # noqa: E402
    NM,
    SNIP,
    Cubic,
    EarlyStop,
    Exponential,
    Iterative,
    Movement,
    OneShot,
    Pruner,
)


def fresh(form):
    model, sparse = twins.twins()
    for _, layer in prunable_layers(model):
        layer.set_mask(torch.ones(layer.weight_shape, dtype=torch.bool))
    return model if form == "masked" else to_sparse(model)


def counts(model):
    return [layer.num_weight for _, layer in prunable_layers(model)]


def bits(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


SIZES = [216, 288, 2560]

every_form = pytest.mark.parametrize("form", ["masked", "sparse"])


@every_form
@pytest.mark.parametrize("schedule", [OneShot(2), Iterative(3, 2, 1), Cubic(1, 7, 2), Exponential(1, 7, 2)], ids=str)
@pytest.mark.parametrize("selection", ["global", "layer", "erk"])
def test_counts_follow_the_schedule(form, schedule, selection):
    model = fresh(form)
    pruner = Pruner(model, 0.1, schedule=schedule, selection=selection)
    total, reached = sum(SIZES), sum(SIZES)
    for step in range(10):
        assert pruner.steps == step and pruner.done is (step > schedule.last)
        changed = pruner.step()
        if schedule.is_due(step):
            share = schedule.density(step, 1.0, 0.1)
            if selection == "global":
                reached = min(reached, math.floor(share * total + 0.5))
                assert sum(counts(model)) == reached
            elif selection == "layer":
                assert counts(model) == [math.floor(share * size + 0.5) for size in SIZES]
        else:
            assert not changed
        assert pruner.density == sum(counts(model)) / total
    assert sum(counts(model)) == math.floor(0.1 * total + 0.5) or selection == "layer"


def test_what_is_pruned_already_is_where_the_schedule_begins():
    model = fresh("sparse")
    mpl_sparse.prune_by_pct(model, 0.5)
    pruner = Pruner(model, 0.1, schedule=Exponential(0, 2))
    pruner.step()
    assert pruner.density == 0.5
    pruner.step()
    assert pruner.density == pytest.approx((0.5 * 0.1) ** 0.5, abs=1e-3)


@every_form
def test_n_of_m_at_a_step(form):
    model = fresh(form)
    pruner = Pruner(model, granularity=NM(1, 4), schedule=OneShot(1))
    assert not pruner.step() and counts(model) == SIZES
    assert pruner.step()
    assert counts(model) == [8 * 9, 16 * 9, 640]  # 3 inputs and 2 inputs a group: one of each
    assert not pruner.step() and pruner.done


def start(form, score):
    model = fresh(form)
    optimizer = mpl_sparse.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    score = {"movement": Movement, "snip": lambda: SNIP(twins.batches(2, seed=9))}.get(score, lambda: score)()
    evaluate = EarlyStop(lambda model: -sum(counts(model)) / 1e9, tolerance=1.0)
    pruner = Pruner(model, 0.1, schedule=Cubic(1, 9, 2), score=score, stop=evaluate)
    return model, optimizer, pruner, score


def go_on(parts, data):
    model, optimizer, pruner, score = parts
    for inputs, classes in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        if isinstance(score, Movement):
            score.accumulate(model)
        optimizer.step()
        pruner.step()


def through_torch(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def through_ours(state, path):
    mpl_sparse.save(state, path)
    return mpl_sparse.load(path)


@every_form
@pytest.mark.parametrize("through", [through_torch, through_ours])
@pytest.mark.parametrize("score", ["magnitude", "movement", "snip"])
def test_going_on_from_a_file_is_the_same_bit_for_bit(form, score, through, tmp_path):
    data = twins.batches(12)
    whole = start(form, score)
    go_on(whole, data)
    first = start(form, score)
    go_on(first, data[:6])
    names = ("model", "optimizer", "pruner")
    saved = {name: part.state_dict() for name, part in zip(names, first)}
    loaded = through(saved, tmp_path / "state")
    second = start(form, score)
    for name, part in zip(names, second):
        part.load_state_dict(loaded[name])
    go_on(second, data[6:])
    assert counts(whole[0]) == counts(second[0]) and whole[2].density < 0.11
    assert_same(bits(whole[0]), bits(second[0]))


@every_form
@pytest.mark.parametrize("undo", [True, False])
def test_early_stop(form, undo):
    model = fresh(form)
    states, seen = [bits(model)], []
    accuracies = iter([0.9, 0.895, 0.885])

    def evaluate(model):
        model.train()
        seen.append(sum(counts(model)))
        return next(accuracies)

    model.eval()
    pruner = Pruner(model, 0.01, schedule=Iterative(5), stop=EarlyStop(evaluate, tolerance=0.01, undo=undo))
    changed = []
    for _ in range(6):
        changed.append(pruner.step())
        with torch.no_grad():
            model[1].running_mean += 1  # training
        states.append(bits(model))
    assert not model.training
    assert len(seen) == 3 and pruner.stopped and pruner.done
    assert changed == [True, True, True, False, False, False]
    expected = dict(states[1] if undo else states[2])  # before the second pruning, or what was made of it
    expected["1.running_mean"] = expected["1.running_mean"] + 1
    assert_same(states[3], expected)


@every_form
def test_check_looks_at_the_last_pruning(form):
    model = fresh(form)
    before = bits(model)
    pruner = Pruner(model, 0.1, stop=EarlyStop(lambda model: 0.5, tolerance=0.0, baseline=0.8))
    assert pruner.step() and sum(counts(model)) == 306
    assert pruner.check() is False and pruner.check() is False
    assert_same(bits(model), before)


def test_a_stop_survives_a_file(tmp_path):
    model = fresh("sparse")
    stop = EarlyStop(lambda model: 0.5, tolerance=0.0, baseline=0.8)
    before = bits(model)
    pruner = Pruner(model, 0.1, stop=stop)
    pruner.step()
    loaded = through_torch([pruner.state_dict(), model.state_dict()], tmp_path / "state")
    other = fresh("sparse")
    other.load_state_dict(loaded[1])
    again = Pruner(other, 0.1, stop=stop)
    again.load_state_dict(loaded[0])
    assert again.check() is False
    assert_same(bits(other), before)


def test_the_first_densities_come_from_the_file():
    """A pruner that is made for a model that is half pruned already goes on as the one that pruned it."""
    model = fresh("sparse")
    pruner = Pruner(model, 0.1, schedule=Cubic(0, 6))
    for _ in range(4):
        pruner.step()
    other = fresh("sparse")
    other.load_state_dict(model.state_dict())
    again = Pruner(other, 0.1, schedule=Cubic(0, 6))
    again.load_state_dict(pruner.state_dict())
    pruner.step(), again.step()
    assert counts(other) == counts(model) and sum(counts(model)) == math.floor((0.1 + 0.9 / 27) * sum(SIZES) + 0.5)


def test_an_error_leaves_the_count_of_steps():
    model, broken = fresh("masked"), [True]

    def score(layer):
        if broken[0]:
            raise RuntimeError("the user's own")
        return layer.remaining_weight().abs()

    pruner = Pruner(model, 0.1, score=score)
    with pytest.raises(RuntimeError, match="the user's own"):
        pruner.step()
    assert pruner.steps == 0 and counts(model) == SIZES
    broken[0] = False
    assert pruner.step() and pruner.steps == 1


def test_a_plain_model_is_made_prunable():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    Pruner(model, {"0": 0.25}, exclude="1").step()
    assert model[0].num_weight == 16 and type(model[1]) is nn.Linear


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "takes a density, got density=None"),
        ({"density": 0.1, "granularity": NM(1, 2)}, ValueError, "takes no density, got density=0.1"),
        ({"granularity": NM(1, 2), "schedule": Cubic(0, 4)}, ValueError, "prunes at one step"),
        ({"density": 0.1, "schedule": 3}, TypeError, "schedule must be a Schedule such as Cubic"),
        ({"density": 0.1, "stop": 3}, TypeError, "stop must be an EarlyStop, got 3"),
        ({"density": 1.1}, ValueError, "density must be in"),
        ({"density": 0.1, "score": "snip"}, ValueError, "score 'snip' needs data"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        Pruner(fresh("masked"), **arguments)


def test_bad_states():
    pruner = Pruner(fresh("masked"), 0.1)
    with pytest.raises(ValueError, match="state must be what Pruner.state_dict gave"):
        pruner.load_state_dict({"step": 3})
    other = Pruner(prunable(nn.Sequential(nn.Linear(2, 2))), 0.1)
    with pytest.raises(ValueError, match="state is for the layers"):
        pruner.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((3,), TypeError, "evaluate must be a function of the model, got 3"),
        ((len, -0.1), ValueError, "tolerance must not be negative, got -0.1"),
        ((len, "0.1"), TypeError, "tolerance must be a real number, got '0.1'"),
        ((len, 0.1, math.nan), ValueError, "baseline must be finite, got nan"),
        ((len, 0.1, 0.9, "yes"), TypeError, "undo must be True or False, got 'yes'"),
    ],
)
def test_bad_stops(arguments, error, words):
    with pytest.raises(error, match=words):
        EarlyStop(*arguments)


def test_what_evaluate_must_give():
    for bad, error in [("good", TypeError), (math.nan, ValueError), (None, TypeError)]:
        pruner = Pruner(fresh("masked"), 0.1, stop=EarlyStop(lambda model, bad=bad: bad))
        with pytest.raises(error, match="the result of evaluate"):
            pruner.step()
        assert pruner.steps == 0
    pruner = Pruner(fresh("masked"), 0.1, stop=EarlyStop(lambda model: torch.tensor(0.5)))
    assert pruner.step()
