"""Pruning of whole models by the free functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse import pruning  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers, to_sparse  # noqa: E402


@pytest.fixture(params=["masked", "sparse"])
def model(request):
    torch.manual_seed(0)
    model = prunable(nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Sequential(nn.Linear(7, 11)), nn.Linear(11, 3)))
    return model if request.param == "masked" else to_sparse(model)


SIZES = [90, 77, 33]


def counts(model):
    return [layer.num_weight for _, layer in prunable_layers(model)]


def weights(model):
    return [layer.remaining_weight().clone() for _, layer in prunable_layers(model)]


def test_the_model_comes_back(model):
    for prune, argument in [
        (pruning.prune_by_threshold, 0.0),
        (pruning.prune_by_rank, 1),
        (pruning.prune_by_pct, 0.1),
        (pruning.random_prune_by_pct, 0.1),
    ]:
        assert prune(model, argument) is model
    assert pruning.prune_by_score(model, "magnitude", 0.1) is model


def test_threshold_keeps_what_reaches_it(model):
    before = weights(model)
    thr = before[1].abs().median().item()
    pruning.prune_by_threshold(model, thr)
    for old, new in zip(before, weights(model)):
        assert torch.equal(new, old[old.abs() >= thr])


def test_rank_drops_exactly_so_many_of_the_smallest(model):
    before = weights(model)
    pruning.prune_by_rank(model, [0, 20, None])
    assert counts(model) == [90, 57, 33]
    smallest = before[1].abs().argsort(stable=True)[:20]
    kept = torch.ones(77, dtype=torch.bool)
    kept[smallest] = False
    assert torch.equal(weights(model)[1], before[1][kept])


@pytest.mark.parametrize("pct", [0, 0.0, 0.3, 0.5, 1, 1.0])
def test_pct_counts_what_remains(model, pct):
    left = SIZES
    for _ in range(2):
        pruning.prune_by_pct(model, pct)
        left = [size - int(pct * size) for size in left]
        assert counts(model) == left


def test_random_pruning_follows_its_generator(model):
    before = counts(model)
    pruning.random_prune_by_pct(model, [0.5, None, 0.25], torch.Generator().manual_seed(1))
    assert counts(model) == [45, 77, 33 - 8]
    assert counts(model) != before


@pytest.mark.parametrize("argument", [[0.5, None, 0.25], (0.5, 0, 0.25), np.array([0.5, 0.0, 0.25])], ids=type)
def test_one_value_a_layer(model, argument):
    pruning.prune_by_pct(model, argument)
    assert counts(model) == [45, 77, 25]


def test_none_alone_prunes_nothing(model):
    pruning.prune_by_pct(model, None)
    assert counts(model) == SIZES


PRUNERS = {
    "thr": pruning.prune_by_threshold,
    "rank": pruning.prune_by_rank,
    "pct": pruning.prune_by_pct,
    "random": pruning.random_prune_by_pct,
    "score": lambda model, pct: pruning.prune_by_score(model, "magnitude", pct),
}
BAD = {
    "thr": [-0.1, math.nan, "0.1"],
    "rank": [-1, 34, 0.5, "1"],
    "pct": [-0.1, 1.1, math.nan, "0.1"],
    "random": [-0.1, 1.1, math.nan, "0.1"],
    "score": [-0.1, 1.1, math.nan, "0.1"],
}


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, values in BAD.items() for bad in values])
def test_a_bad_value_for_the_last_layer_changes_no_layer(model, name, bad):
    before = weights(model)
    argument = "pct" if name in ("random", "score") else name
    with pytest.raises((TypeError, ValueError), match=argument):
        PRUNERS[name](model, [1 if name == "rank" else 0.5, 0, bad])
    assert all(torch.equal(old, new) for old, new in zip(before, weights(model)))


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("values", [[], [0, 0], [0] * 4])
def test_a_list_of_the_wrong_length_names_both_numbers(model, name, values):
    with pytest.raises(ValueError, match=rf"3 prunable layers, got {len(values)} values"):
        PRUNERS[name](model, values)


def test_scores_by_name_and_by_function(model):
    before = weights(model)
    pruning.prune_by_score(model, "random", 0.5)
    assert counts(model) == [45, 39, 17]
    pruning.prune_by_score(model, lambda layer: -layer.remaining_weight().abs(), [None, None, 1 / 17 + 1e-9])
    assert before[2].abs().max() >= weights(model)[2].abs().max()
    assert counts(model) == [45, 39, 16]


def test_magnitude_is_prune_by_pct(model):
    twin = to_sparse(model)
    pruning.prune_by_score(model, pruning.magnitude, 0.6)
    pruning.prune_by_pct(twin, 0.6)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(model), weights(twin)))


def test_every_registered_score_has_one_number_a_weight(model):
    pruning.prune_by_pct(model, 0.3)
    local = [score for score in pruning.SCORES.values() if not isinstance(score, type)]
    assert local == [pruning.magnitude, pruning.random]
    for score in local:
        for _, layer in prunable_layers(model):
            assert score(layer).shape == (layer.num_weight,)


def test_bad_scores(model):
    with pytest.raises(ValueError, match=r"score must be one of \[.*'magnitude', 'obs', 'random'.*\], got 'colour'"):
        pruning.prune_by_score(model, "colour", 0.5)
    with pytest.raises(TypeError, match="score must be a name or a function, got 3"):
        pruning.prune_by_score(model, 3, 0.5)
    with pytest.raises(ValueError, match="score 'snip' needs data"):
        pruning.prune_by_score(model, "snip", 0.5)
    with pytest.raises(TypeError, match=r"make one, SNIP\(data\)"):
        pruning.prune_by_score(model, pruning.SNIP, 0.5)
    with pytest.raises(ValueError, match="score must give"):
        pruning.prune_by_score(model, lambda layer: layer.remaining_weight()[: 33 + 44], 0.5)
    assert counts(model) == SIZES


def test_a_layer_is_a_model_too(model):
    _, layer = prunable_layers(model)[0]
    pruning.prune_by_pct(layer, 0.5)
    assert counts(model) == [45, 77, 33]


@pytest.mark.parametrize("argument", [{0: 0.5, 1: 1.0}, {0.5, 0.25}, "0.5", (x for x in (0.5, 0.5))])
def test_what_is_no_sequence_of_values_changes_nothing(argument):
    model = prunable(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="pct must be a number, None or a sequence"):
        pruning.prune_by_pct(model, argument)
    assert [layer.num_weight for layer in model] == [16, 16]


@pytest.mark.parametrize("argument", [torch.tensor(0.5), np.array(0.5), torch.tensor([0.5, 0.5]), np.array([0.5, 0.5])])
def test_values_may_be_an_array(argument):
    model = pruning.prune_by_pct(prunable(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), argument)
    assert [layer.num_weight for layer in model] == [8, 8]


def test_a_score_must_be_a_tensor():
    model = prunable(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="score must give a torch tensor, got list"):
        pruning.prune_by_score(model, lambda layer: [1.0] * 16, 0.5)
