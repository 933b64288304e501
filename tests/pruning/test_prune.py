"""prune(): every part on masked, sparse and mixed models, against choices made by hand in dense numbers."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import odd_models  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from odd_models import batches, odd_forms  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.pruning import NM, Block, prune  # noqa: E402

every_form = pytest.mark.parametrize("form", odd_models.FORMS)


def layers_of(model):
    return dict(prunable_layers(model))


def masks_of(model):
    return {name: layer.mask.clone() for name, layer in prunable_layers(model)}


def counts(model):
    return {name: layer.num_weight for name, layer in prunable_layers(model)}


def sizes(model):
    return {name: layer.weight_shape.numel() for name, layer in prunable_layers(model)}


def dense(layer):
    weight = torch.zeros(layer.weight_shape, dtype=torch.float64)
    weight[layer.mask] = layer.remaining_weight().double()
    return weight


def small(form="masked"):
    torch.manual_seed(3)
    model = prunable(nn.Sequential(nn.Conv2d(3, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.Linear(7, 3)))
    return model if form == "masked" else to_sparse(model)


@every_form
@pytest.mark.parametrize("density", [0.0, 0.013, 0.2, 0.399])
def test_global_density_is_exact_and_takes_the_smallest(form, density):
    _, model, masks = odd_forms(form)
    before = {name: dense(layer) for name, layer in layers_of(model).items()}
    assert prune(model, density) is model
    total = sum(sizes(model).values())
    keep = math.floor(density * total + 0.5)
    assert sum(counts(model).values()) == min(keep, sum(int(mask.sum()) for mask in masks.values()))
    after = masks_of(model)
    kept = torch.cat([before[name][after[name]].abs() for name in masks])
    gone = torch.cat([before[name][masks[name] & ~after[name]].abs() for name in masks])
    assert not kept.numel() or not gone.numel() or kept.min() >= gone.max()
    for name, layer in layers_of(model).items():
        assert torch.equal(dense(layer), torch.where(after[name], before[name], 0))


@pytest.mark.parametrize("selection", ["global", "layer", "row", "er", "erk"])
def test_pruning_never_grows(selection):
    model = small()
    prune(model, 0.3, selection="layer")
    before = masks_of(model)
    prune(model, 0.9, selection=selection)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(model).items())


@pytest.mark.parametrize("form", ["masked", "sparse"])
def test_layer_density(form):
    model = prune(small(form), 0.25, selection="layer")
    assert counts(model) == {"0": 15, "3": 35, "4": 5}
    model = prune(small(form), [0.5, None, 0.0])
    assert counts(model) == {"0": 30, "3": 140, "4": 0}
    model = prune(small(form), {"4": 1.0, "[34]": 0.1}, selection="layer")
    assert counts(model) == {"0": 60, "3": 14, "4": 21}
    model = prune(small(form), torch.tensor([0.5, 0.25, 1.0]))
    assert counts(model) == {"0": 30, "3": 35, "4": 21}


@pytest.mark.parametrize("form", ["masked", "sparse"])
@pytest.mark.parametrize("density", [1.0, 0.5, 0.3, 0.03, 0.0])
def test_row_density(form, density):
    """In each row the highest stay, as many of each, and one more where the next one is among the highest next ones."""
    model = small(form)
    before = {name: dense(layer).abs().flatten(1) for name, layer in layers_of(model).items()}
    prune(model, density, selection="row")
    for name, layer in layers_of(model).items():
        keep = math.floor(density * before[name].numel() + 0.5)
        each, more = divmod(keep, before[name].shape[0])
        sorted_rows, order = before[name].sort(1, descending=True)
        stay = torch.full((before[name].shape[0],), each)
        if more:
            stay[sorted_rows[:, each].topk(more).indices] += 1
        expected = torch.zeros_like(before[name], dtype=torch.bool)
        for row, number in enumerate(stay):
            expected[row, order[row, :number]] = True
        assert torch.equal(layer.mask.flatten(1), expected)
        assert layer.num_weight == keep


@pytest.mark.parametrize("form", ["masked", "sparse"])
def test_pct_rank_and_threshold(form):
    model = prune(small(form), pct=0.5, selection="layer")
    assert counts(model) == {"0": 30, "3": 70, "4": 11}
    prune(model, pct=0.5)
    assert sum(counts(model).values()) == 111 - 55
    prune(model, rank=6)
    assert sum(counts(model).values()) == 50
    prune(model, rank=2, selection="layer", exclude="4")
    assert sum(counts(model).values()) == 46
    weights = {name: dense(layer).abs() for name, layer in layers_of(model).items()}
    prune(model, threshold=0.3)
    assert all(torch.equal(layer.mask, weights[name] >= 0.3) for name, layer in layers_of(model).items())


@pytest.mark.parametrize("selection", ["er", "erk"])
@pytest.mark.parametrize("form", ["masked", "sparse"])
def test_erdos_renyi(selection, form):
    model = prune(small(form), 0.3, selection=selection)
    assert sum(counts(model).values()) == math.floor(0.3 * 221 + 0.5)
    densities = {name: layer.density for name, layer in layers_of(model).items()}
    factor = {"er": {"0": 8 / 15, "3": 27 / 140, "4": 10 / 21}, "erk": {"0": 12 / 60, "3": 27 / 140, "4": 10 / 21}}
    ratios = [densities[name] / factor[selection][name] for name in densities]
    assert max(ratios) / min(ratios) < 1.15  # whole weights


@every_form
@pytest.mark.parametrize("granularity", ["kernel", "filter", Block(2, 3)], ids=str)
@pytest.mark.parametrize("selection", ["global", "layer"])
def test_units_go_whole_and_the_lowest_first(form, granularity, selection):
    _, model, masks = odd_forms(form)
    before = {name: dense(layer) for name, layer in layers_of(model).items()}
    prune(model, 0.2, granularity=granularity, selection=selection)
    after, worth = masks_of(model), {}
    for name, mask in masks.items():
        for label, place in labelled(granularity, mask.shape):
            if mask[place]:
                worth.setdefault((name, label), []).append((before[name][place].abs().item(), bool(after[name][place])))
    pools = [list(masks)] if selection == "global" else [[name] for name in masks]
    for pool in pools:
        units = [unit for (name, _), unit in worth.items() if name in pool]
        assert all(len({stays for _, stays in unit}) == 1 for unit in units)
        mean = [(sum(score for score, _ in unit) / len(unit), unit[0][1], len(unit)) for unit in units]
        lost, kept = ([each for each in mean if each[1] is stays] for stays in (False, True))
        asked = sum(len(unit) for unit in units) - math.floor(0.2 * sum(masks[name].numel() for name in pool) + 0.5)
        dropped = sum(size for _, _, size in lost)
        assert dropped <= max(asked, 0)
        if kept and asked > 0:
            first = min(kept)
            assert dropped + first[2] > asked  # the next unit would have been too much
            assert not lost or max(lost)[0] <= first[0]


def labelled(granularity, shape):
    cols = math.prod(shape[1:])
    for flat in range(math.prod(shape)):
        place = tuple(int(each) for each in torch.unravel_index(torch.tensor(flat), shape))
        if granularity == "filter":
            yield place[0], place
        elif granularity == "kernel":
            yield place[:2] if len(shape) == 4 else place[0], place
        else:
            yield (flat // cols // 2, flat % cols // 3), place


@pytest.mark.parametrize("form", ["masked", "sparse"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (0, 2), (4, 4)])
def test_n_of_m(form, n, m):
    model = small(form)
    before = {name: dense(layer).abs() for name, layer in layers_of(model).items()}
    prune(model, granularity=NM(n, m))
    for name, layer in layers_of(model).items():
        weight, mask = (
            each.flatten(2) if each.dim() == 4 else each.unsqueeze(2) for each in (before[name], layer.mask)
        )
        for first in range(0, weight.shape[1], m):
            group, kept = weight[:, first : first + m], mask[:, first : first + m]
            wide = min(n, group.shape[1])
            expected = torch.zeros_like(kept).scatter_(1, group.topk(wide, 1).indices, True)
            assert torch.equal(kept, expected)
    pruned = masks_of(model)
    prune(model, granularity=NM(n, m))
    assert all(torch.equal(mask, pruned[name]) for name, mask in masks_of(model).items())


@every_form
@pytest.mark.parametrize("score", [name for name in mpl_sparse.pruning.SCORES])
def test_every_score_by_name(form, score):
    _, model, _ = odd_forms(form)
    needs_data = isinstance(mpl_sparse.pruning.SCORES[score], type)
    prune(model, 0.1, score=score, data=batches(1) if needs_data else None, selection="global", rounds=2)
    total = sum(sizes(model).values())
    assert sum(counts(model).values()) == math.floor(0.1 * total + 0.5)


def test_each_score_has_its_own_selection():
    model = small()
    data = [(torch.randn(6, 3, 3, 3), torch.randint(3, (6,)))]
    prune(model, 0.5, score="wanda", data=data)
    for layer in layers_of(model).values():
        of_rows = layer.mask.flatten(1).sum(1)
        assert of_rows.max() - of_rows.min() <= 1
    prune(model, 0.25, score="obs", data=data)
    assert counts(model) == {"0": 15, "3": 35, "4": 5}


def test_synflow_takes_a_hundred_rounds():
    model, scored = small(), []

    def run(model, batch):
        scored.append(sum(counts(model).values()))
        return model(batch)

    prune(model, 0.1, score="synflow", data=[torch.zeros(2, 3, 3, 3)], loss=run)
    assert len(scored) == 100 and scored[0] == 221
    assert scored[50] == math.floor(221 * 0.1**0.5 + 0.5)
    assert sum(counts(model).values()) == 22
    assert all(layer.num_weight for layer in layers_of(model).values())  # no layer collapses: the paper's theorem 3


@pytest.mark.parametrize("density", [0.5, 0.05, 0.0])
def test_rounds_leave_each_time_the_same_share(density):
    model, seen = small(), []

    def score(layer):
        seen.append(layer.num_weight)
        return layer.remaining_weight().abs()

    prune(model, density, score=score, rounds=3)
    totals = [sum(seen[place : place + 3]) for place in (0, 3, 6)]
    shrunk = density or 0.001
    assert totals == [math.floor(221 * shrunk ** (done / 3) + 0.5) for done in range(3)]
    assert sum(counts(model).values()) == math.floor(221 * density + 0.5)


def test_a_plain_model_is_made_prunable():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    weight = model[0].weight
    prune(model, 0.5, exclude="2")
    assert counts(model) == {"0": 36} and model[0].weight is weight
    assert type(model[2]) is nn.Linear


def test_layers_left_plain_on_purpose_stay_plain():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prunable(model, exclude="0")
    prune(model, 0.5)
    assert type(model[0]) is nn.Linear and counts(model) == {"1": 8}


def test_a_model_of_torchvision(torchvision):
    model = prune(torchvision.models.resnet18(), 0.1, exclude=["conv1", "fc"])
    kept = {name: layer for name, layer in layers_of(model).items()}
    assert "fc" not in kept and len(kept) == 19
    assert sum(counts(model).values()) == math.floor(0.1 * sum(sizes(model).values()) + 0.5)
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_shared_and_empty_layers_count_once():
    shared = nn.Linear(4, 4)
    model = prunable(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 0), nn.Linear(0, 4)))
    for each in (model, to_sparse(model)):
        for selection in ("global", "layer", "row", "er", "erk"):
            prune(each, 0.75, selection=selection)
            assert counts(each) == {"0": 12, "3": 0, "4": 0}


def test_lstm():
    model = prune(nn.LSTM(5, 3), 0.2)
    assert sum(counts(model).values()) == math.floor(0.2 * 12 * 8 + 0.5)
    sparse = to_sparse(model)
    prune(sparse, 0.1)
    assert sum(counts(sparse).values()) == math.floor(0.1 * 12 * 8 + 0.5)


def test_nan_goes_last_and_ties_by_position():
    model = prunable(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[math.nan, 1, 1], [1, 2, 1]]))
        model[1].weight.fill_(1)
    prune(model, 0.4)
    assert model[0].mask.tolist() == [[True, False, False], [False, True, False]]
    assert model[1].mask.tolist() == [[False, False], [True, True]]


@settings(max_examples=25)
@given(st.floats(0, 1), st.sampled_from(["global", "layer", "row", "er", "erk"]), st.sampled_from(["masked", "sparse"]))
def test_any_density_is_exact(density, selection, form):
    model = prune(small(form), density, selection=selection)
    total = sum(sizes(model).values())
    if selection in ("layer", "row"):
        assert counts(model) == {name: math.floor(density * size + 0.5) for name, size in sizes(model).items()}
    else:
        assert sum(counts(model).values()) == math.floor(density * total + 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "exactly one of density, pct, rank and threshold, got none"),
        ({"density": 0.5, "pct": 0.5}, ValueError, r"got \['density', 'pct'\]"),
        ({"density": 0.5, "granularity": NM(2, 4)}, ValueError, r"none with granularity=NM\(n=2, m=4\)"),
        ({"density": 1.5}, ValueError, r"density must be in \[0, 1\], got 1.5"),
        ({"density": "0.5"}, TypeError, "density must be a real number, got '0.5'"),
        ({"density": [0.5, 0.5]}, ValueError, "density must have one value for each of the 3 prunable layers, got 2"),
        ({"density": [0.5, 0.5, 2]}, ValueError, r"density must be in \[0, 1\], got 2"),
        ({"density": {"x*": 0.5}}, ValueError, r"density: 'x\*' matches no prunable layer"),
        ({"density": {3: 0.5}}, TypeError, "density must map names or patterns of them to numbers, got 3"),
        ({"density": [0.5] * 3, "selection": "global"}, ValueError, "needs selection='layer' or 'row'"),
        ({"pct": -0.5}, ValueError, "pct must be in"),
        ({"pct": 0.5, "selection": "erk"}, ValueError, "selection='erk' goes with a density, not with pct"),
        ({"rank": 222}, ValueError, r"rank must be in \[0, 221\]"),
        ({"rank": 22, "selection": "layer"}, ValueError, r"rank must be in \[0, 21\]"),
        ({"rank": 1.5}, TypeError, "rank must be an integer"),
        ({"threshold": math.nan}, ValueError, "threshold must be a number, got nan"),
        ({"threshold": "0.1"}, TypeError, "threshold must be a real number, got '0.1'"),
        ({"density": 0.5, "score": "colour"}, ValueError, "score must be one of"),
        ({"density": 0.5, "score": 3}, TypeError, "score must be a name or a function, got 3"),
        ({"density": 0.5, "score": "snip"}, ValueError, "score 'snip' needs data"),
        ({"density": 0.5, "data": [1]}, ValueError, "data belongs to a score that is given by name and needs it"),
        ({"density": 0.5, "score": lambda layer: [1.0]}, TypeError, "score must give a torch tensor, got list"),
        ({"density": 0.5, "score": lambda layer: torch.ones(3)}, ValueError, r"score must give \(60,\) numbers"),
        ({"density": 0.5, "granularity": "atom"}, ValueError, "granularity must be one of"),
        ({"density": 0.5, "selection": "country"}, ValueError, "selection must be one of"),
        ({"density": 0.5, "selection": 3}, TypeError, "selection must be one of"),
        ({"density": 0.5, "selection": "row", "granularity": "kernel"}, ValueError, "selection='row' is for single"),
        ({"density": 0.5, "exclude": "nothing"}, ValueError, "exclude: 'nothing' matches no module"),
        ({"density": 0.5, "exclude": 3}, TypeError, "exclude must be"),
        ({"density": 0.5, "exclude": "*"}, ValueError, "no layer to prune that is not excluded"),
        ({"density": 0.5, "rounds": 0}, ValueError, "rounds must be at least 1, got 0"),
        ({"threshold": 0.5, "rounds": 2}, ValueError, "rounds goes with density, pct or rank, got rounds=2"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, words):
    model = small()
    before = masks_of(model)
    with pytest.raises(error, match=words):
        prune(model, **arguments)
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(model).items())


def test_bad_models():
    with pytest.raises(TypeError, match="model must be an nn.Module, got list"):
        prune([], 0.5)
    with pytest.raises(ValueError, match="model has no layer to prune"):
        prune(nn.Sequential(nn.ReLU()), 0.5)


@every_form
def test_an_error_in_a_later_round_brings_all_weights_back(form):
    _, model, _ = odd_forms(form)
    optimizer = mpl_sparse.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    nn.functional.cross_entropy(model(batches(1)[0][0]), batches(1)[0][1]).backward()
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []

    def loss(model, batch):
        calls.append(batch)
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return value * float("nan") if len(calls) == 3 else value

    with pytest.raises(ValueError, match="loss must be finite"):
        prune(model, 0.1, score="snip", data=batches(1), loss=loss, rounds=5)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    optimizer.step()
    prune(model, 0.1)
    optimizer.step()


@pytest.mark.parametrize("score", ["obs", "wanda"])
def test_layers_that_stay_are_not_looked_at(score):
    """An OBS Hessian of a large layer, say, would not fit into memory."""
    model = prunable(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
    model[0].register_forward_hook(lambda layer, inputs, output: output * float("nan"))
    with pytest.raises(ValueError, match="finite inputs"):
        prune(model, 0.5, score=score, data=[torch.randn(3, 4)])
    prune(model, 0.5, score=score, data=[torch.randn(3, 4)], exclude="1")
    prune(model, {"0": 0.25}, score=score, data=[torch.randn(3, 4)])
    assert counts(model) == {"0": 5, "1": 15}


@pytest.mark.parametrize("arguments", [{"density": 0.5}, {"density": 0.5, "granularity": "filter"}, {"threshold": 0.5}])
def test_a_mask_is_a_score(arguments):
    model = prunable(nn.Linear(4, 6, bias=False))
    stay = torch.tensor([True, False, True, False, False, True]).repeat_interleave(4)
    prune(model, score=lambda layer: stay, **arguments)
    assert torch.equal(model.mask.reshape(-1), stay)
