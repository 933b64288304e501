"""PruneFL's reconfiguration: the choice against all subsets, the rest against the paper's steps on dense weights."""

from __future__ import annotations

import copy
import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, DenseLSTM, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD  # noqa: E402
from mpl_sparse.pruning.dynamic import PruneFL, best_additions  # noqa: E402
from mpl_sparse.pruning.time_model import TimeModel  # noqa: E402

FORMS = pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
GAINS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 8.0]) | st.floats(0, 10)
LAYERS = st.lists(
    st.tuples(st.lists(GAINS, max_size=5), st.sampled_from([0.25, 0.5, 1.0, 4.0])), min_size=1, max_size=3
)


def value(gain, seconds):
    return gain / seconds if seconds else (math.inf if gain else 0.0)


def unpack(layers):
    return [torch.tensor(gains, dtype=torch.float64) for gains, _ in layers], [time for _, time in layers]


@settings(max_examples=200)
@given(gain=st.sampled_from([0.0, 0.1, 1.0, 7.0]), seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0]), layers=LAYERS)
def test_no_other_choice_is_better(gain, seconds, layers):
    candidates, times = unpack(layers)
    all_of_them = [(g, time) for gains, time in zip(candidates, times) for g in gains.tolist() if g >= 0]
    best = max(
        value(gain + sum(g for g, _ in subset), seconds + sum(t for _, t in subset))
        for size in range(len(all_of_them) + 1)
        for subset in itertools.combinations(all_of_them, size)
    )
    chosen = best_additions(gain, seconds, candidates, times)
    assert all(float(gains[at].min()) > 0 for gains, at in zip(candidates, chosen) if at.numel())
    gain += sum(float(gains[at].sum()) for gains, at in zip(candidates, chosen))
    seconds += sum(time * at.numel() for time, at in zip(times, chosen))
    assert value(gain, seconds) == pytest.approx(best, rel=1e-12)


@given(
    gain=st.sampled_from([0.0, 0.1, 1.0]),
    seconds=st.sampled_from([0.0, 0.5, 3.0]),
    layers=LAYERS,
    most=st.none() | st.integers(0, 6),
)
def test_the_papers_order(gain, seconds, layers, most):
    candidates, times = unpack(layers)
    found = [each.tolist() for each in best_additions(gain, seconds, candidates, times, most)]
    queue = [
        (g / time, i, position)
        for i, (gains, time) in enumerate(zip(candidates, times))
        for position, g in enumerate(gains.tolist())
        if g >= 0
    ]
    expected = [[] for _ in layers]
    for ratio, i, position in sorted(queue, key=lambda each: (-each[0], each[1], each[2])):
        if not ratio > value(gain, seconds) or sum(map(len, expected)) == most:
            break
        expected[i].append(position)
        gain, seconds = gain + float(candidates[i][position]), seconds + times[i]
    assert found == [sorted(each) for each in expected]


def test_candidates_that_take_no_time_are_taken_if_they_gain():
    gains = [torch.tensor([0.0, 3.0, -1.0, 1e-9]), torch.tensor([1.0, 2.0, 0.5])]
    assert [each.tolist() for each in best_additions(1.0, 1.0, gains, [0.0, 1.0])] == [[1, 3], []]
    assert [each.tolist() for each in best_additions(0.0, 0.0, gains, [1.0, 1.0])] == [[1], []]
    assert best_additions(0.0, 1.0, [], []) == []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = DenseConv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.plain = nn.Linear(24, 8)
        self.head = DenseLinear(8, 5, bias=False)
        for layer in (self.conv, self.head):
            layer.random_prune_by_pct(0.6)
        self.double()

    def forward(self, images):
        return self.head(self.plain(self.norm(self.conv(images)).relu().flatten(1)).tanh())


TIMES = TimeModel(2.0, {"conv": 0.05, "head": 0.02})


def minibatches(count):
    source = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 2, 4, 4, generator=source, dtype=torch.float64),
            torch.randn(8, 5, generator=source, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def dense_squares(masked, data, weights):
    """The weighted sums of squared gradients, at all positions, by name of the parameter."""
    dense = copy.deepcopy(masked)
    for _, layer in prunable_layers(dense):
        with torch.no_grad():
            layer.weight.mul_(layer.mask)
        layer.mask.fill_(True)
    total = {name: torch.zeros_like(parameter) for name, parameter in dense.named_parameters()}
    for (images, targets), weight in zip(data, weights):
        dense.zero_grad()
        F.mse_loss(dense(images), targets).backward()
        for name, parameter in dense.named_parameters():
            total[name] += weight * parameter.grad.square()
    return total


def expected_masks(masked, squares, share, most):
    """The original's procedure, weight by weight."""
    stay, queue = {}, []
    for name, layer in prunable_layers(masked):
        weight, mask = layer.weight.detach().flatten().tolist(), layer.mask.flatten().tolist()
        remaining = sorted((p for p in range(len(mask)) if mask[p]), key=lambda p: abs(weight[p]))
        stay[name] = set(remaining[int(share * len(remaining)) :])
        for p, square in enumerate(squares[f"{name}.weight"].flatten().tolist()):
            if p not in stay[name]:
                queue.append((square / TIMES.per_weight[name], name, p, square))
    gain = sum(float(squares[f"{name}.weight"].flatten()[sorted(at)].sum()) for name, at in stay.items())
    gain += sum(float(each.sum()) for name, each in squares.items() if name not in ("conv.weight", "head.weight"))
    seconds = TIMES.constant + sum(len(at) * TIMES.per_weight[name] for name, at in stay.items())
    for ratio, name, p, square in sorted(queue, key=lambda each: -each[0]):
        if ratio <= gain / seconds or sum(map(len, stay.values())) >= most:
            break
        stay[name].add(p)
        gain, seconds = gain + square, seconds + TIMES.per_weight[name]
    return stay, gain / seconds, seconds


@FORMS
@pytest.mark.parametrize("max_density", [None, 0.35, 0.0])
@pytest.mark.parametrize("round_", [0, 7])
def test_reconfiguration_is_the_papers(form, max_density, round_):
    masked = Net()
    data, weights = minibatches(3), [1.0, 0.5, 3.0]
    squares = dense_squares(masked, data, weights)
    most = math.inf if max_density is None else int(max_density * (108 + 40))
    expected, ratio, seconds = expected_masks(masked, squares, 0.6 * 0.5 ** (round_ / 4), most)
    model = form(masked)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    control = PruneFL(model, optimizer, TIMES, removable=0.6, half_life=4, max_density=max_density)
    for (images, targets), weight in zip(data, weights):
        with control.accumulating(weight):  # gradients in .grad add up: they are not looked at
            F.mse_loss(model(images), targets).backward()
    before = {name: layer.weight.to_dense().detach().clone() for name, layer in prunable_layers(model)}
    masks = {name: layer.mask.clone() for name, layer in prunable_layers(model)}
    done = control.reconfigure(round_)
    for name, layer in prunable_layers(model):
        assert set(layer.mask.flatten().nonzero().flatten().tolist()) == expected[name]
        survives = masks[name] & layer.mask
        weight = layer.weight.to_dense().detach()
        assert torch.equal(weight[survives], before[name][survives])
        assert not weight[layer.mask & ~survives].any()
    assert done.weights == {name: len(each) for name, each in expected.items()}
    assert done.ratio == pytest.approx(ratio, rel=1e-9) and done.seconds == pytest.approx(seconds, rel=1e-12)
    with pytest.raises(RuntimeError, match="no gradients"):
        control.reconfigure(8)


@FORMS
def test_some_weights_grow_some_go_and_some_stay_with_their_state(form):
    model = form(Net())
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    control = PruneFL(model, optimizer, TIMES, removable=0.9)
    masks = {name: layer.mask.clone() for name, layer in prunable_layers(model)}
    for images, targets in minibatches(3):
        with control.accumulating(len(images)):
            optimizer.zero_grad()
            F.mse_loss(model(images), targets).backward()
        optimizer.step()

    def momentum(layer):
        entries = optimizer.state[next(iter(layer.parameters()))]["momentum_buffer"]
        if entries.shape == layer.weight_shape:
            return entries.clone()
        dense = entries.new_zeros(layer.weight_shape)
        dense[layer.mask] = entries
        return dense

    before = {name: momentum(layer) for name, layer in prunable_layers(model)}
    control.reconfigure(0)
    optimizer.state_dict()
    for name, layer in prunable_layers(model):
        survives, grown = masks[name] & layer.mask, ~masks[name] & layer.mask
        assert survives.any() and grown.any() and (masks[name] & ~layer.mask).any()
        assert torch.equal(momentum(layer)[survives], before[name][survives])
        assert not momentum(layer)[grown].any()


@FORMS
def test_several_backwards_in_one_block_add_up_before_the_square(form):
    model = form(Net().eval())
    model.norm.eval()
    (images, targets), *_ = minibatches(1)
    parts = [(images[:3], targets[:3]), (images[3:], targets[3:])]
    optimizer = SGD(model.parameters(), lr=0.1)
    one, two = (PruneFL(model, optimizer, TIMES) for _ in range(2))
    with one.accumulating():
        F.mse_loss(model(images), targets, reduction="sum").backward()
    with two.accumulating():
        for some, wanted in parts:
            F.mse_loss(model(some), wanted, reduction="sum").backward()
    for name in ("conv", "head"):
        torch.testing.assert_close(two.state_dict()["squares"][name], one.state_dict()["squares"][name])
    assert two.state_dict()["others"] == pytest.approx(one.state_dict()["others"], rel=1e-9)


@FORMS
def test_a_saved_accumulation_goes_on(form, tmp_path):
    masked, data = Net(), minibatches(4)

    def run(stop):
        model = form(masked)
        optimizer = SGD(model.parameters(), lr=0.1)
        control = PruneFL(model, optimizer, TIMES)
        for i, (images, targets) in enumerate(data):
            if i == stop:
                mpl_sparse.save(control.state_dict(), tmp_path / "control")
                control = PruneFL(model, optimizer, TIMES)
                control.load_state_dict(mpl_sparse.load(tmp_path / "control"))
            with control.accumulating():
                F.mse_loss(model(images), targets).backward()
        return control.reconfigure(3), [layer.mask for _, layer in prunable_layers(model)]

    (whole, masks), (resumed, others) = run(None), run(2)
    assert whole == resumed
    assert all(torch.equal(a, b) for a, b in zip(masks, others))


def test_an_error_in_the_block_adds_nothing_and_leaves_no_hooks():
    model = to_sparse(Net())
    control = PruneFL(model, SGD(model.parameters(), lr=0.1), TIMES)
    (images, targets), *_ = minibatches(1)
    with pytest.raises(ZeroDivisionError), control.accumulating():
        F.mse_loss(model(images), targets).backward()
        1 / 0  # noqa: B018
    assert control.state_dict() == {"squares": {}, "others": 0.0}
    assert not model.conv._forward_hooks and not model.plain.weight._backward_hooks


def test_gradients_that_are_not_finite_change_nothing():
    model = to_sparse(Net())
    control = PruneFL(model, SGD(model.parameters(), lr=0.1), TIMES)
    (images, targets), *_ = minibatches(1)
    with control.accumulating():
        (F.mse_loss(model(images), targets) * math.inf).backward()
    pattern = model.conv.pattern
    with pytest.raises(ValueError, match="not finite"):
        control.reconfigure(0)
    assert model.conv.pattern is pattern


def test_frozen_layers_take_time_and_stay():
    model = to_sparse(Net())
    model.conv.values.requires_grad_(False)
    pattern = model.conv.pattern
    control = PruneFL(model, SGD(model.head.parameters(), lr=0.1), TIMES, removable=1.0)
    (images, targets), *_ = minibatches(1)
    with control.accumulating():
        F.mse_loss(model(images), targets).backward()
    done = control.reconfigure(0)
    assert model.conv.pattern is pattern and done.weights["conv"] == pattern.nnz
    assert done.seconds == pytest.approx(2 + 0.05 * pattern.nnz + 0.02 * model.head.num_weight)


@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_a_layer_that_is_frozen_later_stays_and_one_that_is_no_longer_moves(form):
    model = form(Net())
    weights = [layer._parameters.get("values", layer._parameters.get("weight")) for layer in (model.conv, model.head)]
    weights[0].requires_grad_(False)
    control = PruneFL(model, SGD(model.parameters(), lr=0.1), TIMES, removable=0.9)
    for frozen, moving in ((model.conv, model.head), (model.head, model.conv)):
        before = frozen.pattern, moving.pattern
        (images, targets), *_ = minibatches(1)
        with control.accumulating():
            F.mse_loss(model(images), targets).backward()
        done = control.reconfigure(0)
        assert frozen.pattern == before[0] and moving.pattern != before[1]
        assert list(done.weights.values()) == [model.conv.num_weight, model.head.num_weight]
        for weight in weights:
            weight.requires_grad_(not weight.requires_grad)


def test_lstm_alike_in_both_forms():
    masked = DenseLSTM(4, 5).double()
    for _, layer in prunable_layers(masked):
        layer.random_prune_by_pct(0.5)
    times = TimeModel(1.0, {"ih_l0": 0.1, "hh_l0": 0.2})
    steps = torch.randn(3, 2, 4, dtype=torch.float64)
    masks = []
    for model in (copy.deepcopy(masked), to_sparse(masked)):
        control = PruneFL(model, SGD(model.parameters(), lr=0.1), times, removable=0.5)
        with control.accumulating():
            model(steps)[0].square().sum().backward()
        control.reconfigure(0)
        masks.append([layer.mask for _, layer in prunable_layers(model)])
    assert all(torch.equal(a, b) for a, b in zip(*masks))


def test_refusals():
    model = to_sparse(Net())
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="time_model must be a TimeModel, got dict"):
        PruneFL(model, optimizer, {})
    with pytest.raises(ValueError, match=r"must have the prunable layers \['conv', 'head'\], got \['conv'\]"):
        PruneFL(model, optimizer, TimeModel(1.0, {"conv": 1.0}))
    with pytest.raises(ValueError, match="would not follow"):
        PruneFL(model, torch.optim.SGD(model.parameters(), lr=0.1), TIMES)
    for name, wrong in [("removable", -0.1), ("half_life", 0), ("max_density", 1.5)]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            PruneFL(model, optimizer, TIMES, **{name: wrong})
    control = PruneFL(model, optimizer, TIMES)
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="weight must be finite"), control.accumulating(wrong):
            pass
    with control.accumulating():
        model(minibatches(1)[0][0]).sum().backward()
    with pytest.raises(ValueError, match="round must be an integer, at least 0, got -1"):
        control.reconfigure(-1)
    with pytest.raises(ValueError, match="keys 'others' and 'squares'"):
        control.load_state_dict({})
    with pytest.raises(ValueError, match=r"must have layers among \['conv', 'head'\], got \['tail'\]"):
        control.load_state_dict({"squares": {"tail": torch.ones(108)}, "others": 0.0})
    with pytest.raises(ValueError, match=r"'head' must have shape \(40,\), got \(3,\)"):
        control.load_state_dict({"squares": {"conv": torch.ones(108), "head": torch.ones(3)}, "others": 0.0})
