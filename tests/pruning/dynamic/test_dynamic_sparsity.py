"""SET and RigL in training: against the papers' steps on dense weights in plain torch, masked and sparse."""

from __future__ import annotations

import copy
import io
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from twins import assert_alike, batches, twins  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, DenseLSTM, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD, Adagrad, follow_patterns  # noqa: E402
from mpl_sparse.pruning.dynamic import (  # noqa: E402
    SET,
    DynamicSparsity,
    LargestGradient,
    RigL,
    constant_fraction,
    smallest_by_sign,
    smallest_magnitude,
    zero_start,
)

OPTIMIZERS = {
    "momentum": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: follow_patterns(torch.optim.Adam(parameters, lr=0.01)),
    "rmsprop": lambda parameters: follow_patterns(
        torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True)
    ),
    "adagrad": lambda parameters: Adagrad(parameters, lr=0.01, initial_accumulator_value=0.3),
    "rprop": lambda parameters: follow_patterns(torch.optim.Rprop(parameters, lr=0.01)),
}
TOPOLOGIES = {
    "RigL": lambda model, optimizer: RigL(model, optimizer, until=9, interval=2, alpha=0.7),
    "SET": lambda model, optimizer: SET(model, optimizer, interval=3, generator=torch.Generator().manual_seed(3)),
    "SET by sign": lambda model, optimizer: SET(
        model, optimizer, interval=1, zeta=0.5, drop=smallest_by_sign, generator=torch.Generator().manual_seed(3)
    ),
}


class Oracle:
    """RigL on dense weights in plain torch, as Algorithm 1 has it."""

    def __init__(self, masked, make_optimizer, every, until, alpha):
        self.weights = [masked.conv.weight, masked.head.weight]
        self.masks = [masked.conv.mask.clone(), masked.head.mask.clone()]
        self.biases = [masked.conv.bias, masked.head.bias]
        self.weights = [(weight.detach() * mask).requires_grad_() for weight, mask in zip(self.weights, self.masks)]
        self.biases = [bias.detach().clone().requires_grad_() for bias in self.biases]
        self.optimizer = make_optimizer([*self.weights, *self.biases])
        self.every, self.until, self.alpha, self.t = every, until, alpha, 0

    def step(self, images, targets):
        self.t += 1
        self.optimizer.zero_grad()
        F.mse_loss(
            F.linear(
                F.conv2d(images, self.weights[0], self.biases[0]).relu().flatten(1), self.weights[1], self.biases[1]
            ),
            targets,
        ).backward()
        if self.t % self.every == 0 and self.t < self.until:
            share = self.alpha / 2 * (1 + math.cos(self.t * math.pi / self.until))
            with torch.no_grad():
                for i in range(2):
                    self.move(i, share)
        else:
            for weight, mask in zip(self.weights, self.masks):
                weight.grad *= mask
            self.optimizer.step()
            with torch.no_grad():
                for weight, mask in zip(self.weights, self.masks):
                    weight *= mask

    def move(self, i, share):
        weight, mask = self.weights[i], self.masks[i].view(-1)
        active = mask.nonzero().flatten().tolist()
        count = int(share * len(active))
        sizes, slopes = weight.abs().view(-1).tolist(), weight.grad.abs().view(-1).tolist()
        dropped = sorted(active, key=lambda p: sizes[p])[:count]
        stay = sorted(set(active) - set(dropped))
        free = [p for p in range(mask.numel()) if p not in set(stay)]
        grown = sorted(free, key=lambda p: -slopes[p])[:count]
        staying = torch.zeros_like(mask)
        staying[stay] = True
        staying = staying.view_as(weight)
        group = next(group for group in self.optimizer.param_groups if any(each is weight for each in group["params"]))
        fresh = {"sum": group.get("initial_accumulator_value"), "step_size": group["lr"]}
        weight *= staying
        for name, entries in self.optimizer.state.get(weight, {}).items():
            if isinstance(entries, torch.Tensor) and entries.shape == weight.shape:
                entries[~staying] = fresh.get(name, 0.0)
        mask.fill_(False)
        mask[stay + grown] = True
        return set(dropped) & set(grown)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = DenseConv2d(2, 6, 3)
        self.head = DenseLinear(24, 5)
        for layer in (self.conv, self.head):
            layer.random_prune_by_pct(0.6)
        self.double()

    def forward(self, images):
        return self.head(self.conv(images).relu().flatten(1))


def small_batches(count):
    source = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 2, 4, 4, generator=source, dtype=torch.float64),
            torch.randn(8, 5, generator=source, dtype=torch.float64),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_rigl_is_the_papers_algorithm(form, make_optimizer):
    masked = Net()
    model = form(masked)
    oracle = Oracle(masked, make_optimizer, every=2, until=9, alpha=0.9)
    optimizer = make_optimizer(model.parameters())
    topology = RigL(model, optimizer, until=9, interval=2, alpha=0.9)
    moved = []
    for images, targets in small_batches(12):
        oracle.step(images, targets)
        optimizer.zero_grad()
        F.mse_loss(model(images), targets).backward()
        before = [layer.pattern for _, layer in prunable_layers(model)]
        if not topology.step():
            optimizer.step()
        moved.append(any(layer.pattern != pattern for (_, layer), pattern in zip(prunable_layers(model), before)))
        for layer, weight, mask in zip((model.conv, model.head), oracle.weights, oracle.masks):
            assert torch.equal(layer.mask, mask)
            torch.testing.assert_close(layer.remaining_weight(), weight.detach()[mask], rtol=1e-9, atol=1e-12)
    assert [step for step, whether in enumerate(moved, 1) if whether] == [2, 4, 6, 8]


def train(model, optimizer, topology, data, also_step=False):
    for images, targets in data:
        optimizer.zero_grad()
        loss = F.mse_loss if targets.is_floating_point() else F.cross_entropy
        loss(model(images), targets).backward()
        if not topology.step() or also_step:
            optimizer.step()


@pytest.mark.parametrize("also_step", [False, True])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make_topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_masked_and_sparse_train_alike_at_constant_density(make_topology, make_optimizer, also_step):
    net, trained = Net(), []
    for model in (
        copy.deepcopy(net),
        to_sparse(net),
    ):  # no batch norm: Adam makes much of a gradient that is only rounding
        counts = [layer.num_weight for _, layer in prunable_layers(model)]
        patterns = [layer.pattern for _, layer in prunable_layers(model)]
        optimizer = make_optimizer(model.parameters())
        train(model, optimizer, make_topology(model, optimizer), small_batches(10), also_step)
        assert [layer.num_weight for _, layer in prunable_layers(model)] == counts
        assert all(layer.pattern != pattern for (_, layer), pattern in zip(prunable_layers(model), patterns))
        trained.append(model)
    masked, sparse = trained
    for (_, a), (_, b) in zip(prunable_layers(masked), prunable_layers(sparse)):
        assert torch.equal(a.mask, b.mask)
    assert_alike(masked, sparse, rtol=1e-8, atol=1e-10)  # weights, gradients


@pytest.mark.parametrize("form", [lambda layer: layer, to_sparse], ids=["masked", "sparse"])
def test_what_is_dropped_and_grown_at_once_starts_fresh(form):
    # The smallest weights are those with the largest gradients: they go and come back.
    layer = DenseLinear(6, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, 4.0, 0.1, 0.2, 7.0, 7.0]]))
    layer.set_mask(torch.tensor([[True, True, True, True, False, False]]))
    layer = form(layer)
    optimizer = SGD(layer.parameters(), lr=1e-9, momentum=0.9)
    topology = DynamicSparsity(
        layer, optimizer, drop=smallest_magnitude, grow=LargestGradient(), fraction=constant_fraction(0.5), interval=2
    )
    slopes = torch.tensor([1.0, 2.0, 30.0, 40.0, 0.5, 20.0], dtype=torch.float64)

    def backward():
        optimizer.zero_grad()
        layer(slopes).sum().backward()

    backward()
    assert not topology.step()
    optimizer.step()
    before = layer.remaining_weight().clone()
    backward()
    assert topology.step()
    assert layer.mask.flatten().tolist() == [True, True, True, True, False, False]
    assert layer.remaining_weight()[2:].tolist() == [0, 0]
    assert torch.equal(layer.remaining_weight()[:2], before[:2])
    optimizer.state_dict()
    parameter = next(layer.parameters())
    momentum = optimizer.state[parameter]["momentum_buffer"].flatten()[:4]
    assert momentum.tolist() == [1, 2, 0, 0]
    assert parameter.grad.flatten()[:4].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_what_grows_starts_as_the_rule_says(form):
    for rule in ({}, {"start": zero_start}):
        model = form(Net())
        topology = SET(model, SGD(model.parameters(), lr=0.1), interval=1, zeta=0.5, **rule)
        before = [layer.masked_weight if form is copy.deepcopy else layer.weight.to_dense() for layer in layers(model)]
        masks = [layer.mask.clone() for layer in layers(model)]
        smallest = [smallest_magnitude(layer.remaining_weight(), 0.5) for layer in layers(model)]
        assert topology.step()
        for layer, weight, mask, gone in zip(layers(model), before, masks, smallest):
            stays = mask.clone()
            stays[mask] = ~gone
            stayed, found = stays[layer.mask], layer.remaining_weight()
            assert torch.equal(found[stayed], weight[stays])
            grown = found[~stayed].abs()
            assert len(grown) == int(gone.sum())
            if rule:
                assert not grown.any()
            else:
                assert grown.min() > 0 and grown.max() <= (layer.num_weight / len(mask)) ** -0.5


def layers(model):
    return [layer for _, layer in prunable_layers(model)]


def test_stale_weights_under_a_mask_do_not_come_back():
    layer = DenseLinear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 9.0]]))
    layer.set_mask(torch.tensor([[True, True, False]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    topology = RigL(layer, optimizer, until=100, interval=1, alpha=1.0)
    layer(torch.tensor([1.0, 1.0, 5.0])).sum().backward()
    assert topology.step()
    assert layer.mask.tolist() == [[False, True, True]]
    assert layer.masked_weight.tolist() == [[0, 2, 0]]


SAVES = {
    "torch": (torch.save, lambda file: torch.load(file, weights_only=True)),
    "mpl_sparse": (mpl_sparse.save, mpl_sparse.load),
}


@pytest.mark.parametrize("way", SAVES)
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("make_topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_resumed_training_is_the_same_bit_for_bit(make_topology, stop, way, tmp_path):
    save, load = SAVES[way]
    data = batches(8)
    _, model = twins()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    topology = make_topology(model, optimizer)
    train(model, optimizer, topology, data[:stop])
    for name, each in (("model", model), ("optimizer", optimizer), ("topology", topology)):
        save(each.state_dict(), tmp_path / name)
    train(model, optimizer, topology, data[stop:])

    _, resumed = twins(seed=7)
    resumed.load_state_dict(load(tmp_path / "model"))
    optimizer = OPTIMIZERS["momentum"](resumed.parameters())
    optimizer.load_state_dict(load(tmp_path / "optimizer"))
    topology = make_topology(resumed, optimizer)
    topology.load_state_dict(load(tmp_path / "topology"))
    train(resumed, optimizer, topology, data[stop:])
    assert model.state_dict().keys() == resumed.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_updates_without_optimizer_steps_between_keep_the_state_in_order():
    model = to_sparse(Net())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    (images, targets), *_ = small_batches(1)
    F.mse_loss(model(images), targets).backward()
    optimizer.step()
    topology = SET(model, optimizer, interval=1, zeta=0.5, generator=torch.Generator().manual_seed(0))
    momentum = {
        int(position): float(entry)
        for position, entry in zip(
            model.head.pattern.flat_positions(), optimizer.state[model.head.values]["momentum_buffer"]
        )
    }
    alive = set(momentum)
    for _ in range(3):
        dropped = smallest_magnitude(model.head.remaining_weight(), 0.5).numpy()
        alive -= set(model.head.pattern.flat_positions()[dropped].tolist())
        assert topology.step()
    optimizer.state_dict()
    found = optimizer.state[model.head.values]["momentum_buffer"]
    expected = [momentum[p] if p in alive else 0.0 for p in model.head.pattern.flat_positions().tolist()]
    assert found.tolist() == expected and any(expected)


def test_lstm():
    def trained(form):
        torch.manual_seed(0)
        model = DenseLSTM(4, 5).double()
        for _, layer in prunable_layers(model):
            layer.random_prune_by_pct(0.5)
        model = form(model)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        topology = RigL(model, optimizer, until=20, interval=2)
        for _ in range(7):
            optimizer.zero_grad()
            model(torch.randn(3, 2, 4, dtype=torch.float64))[0].square().sum().backward()
            if not topology.step():
                optimizer.step()
        return model

    masked, sparse = trained(copy.deepcopy), trained(to_sparse)
    for (_, a), (_, b) in zip(prunable_layers(masked), prunable_layers(sparse)):
        assert torch.equal(a.mask, b.mask)
        torch.testing.assert_close(a.remaining_weight(), b.remaining_weight(), rtol=1e-9, atol=1e-12)


def test_full_and_frozen_and_empty_layers_stay():
    model = nn.Sequential(DenseLinear(4, 4), DenseLinear(4, 4), DenseLinear(4, 4), DenseLinear(4, 4))
    model[1].random_prune_by_pct(0.5)
    model[1].weight.requires_grad_(False)
    model[2].prune_by_pct(1.0)
    model[3].random_prune_by_pct(0.5)
    sparse = to_sparse(model)
    optimizer = SGD(sparse.parameters(), lr=0.1)
    patterns = [layer.pattern for layer in sparse]
    topology = SET(sparse, optimizer, interval=1, zeta=0.9)
    assert topology.step()
    assert [layer.pattern is pattern for layer, pattern in zip(sparse, patterns)] == [True, True, True, False]


@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_each_of_two_optimizers_has_its_own_layers(form):
    model = form(Net())
    optimizers = [SGD(model.conv.parameters(), lr=0.1, momentum=0.9), SGD(model.head.parameters(), lr=0.1)]
    topologies = [RigL(model, optimizer, until=100, interval=1) for optimizer in optimizers]
    for topology, moving, staying in zip(topologies, layers(model), layers(model)[::-1]):
        before = moving.pattern, staying.pattern
        images, targets = small_batches(1)[0]
        F.mse_loss(model(images), targets).backward()
        assert topology.step()
        assert moving.pattern != before[0] and staying.pattern == before[1]
    optimizers[0].add_param_group({"params": model.head.parameters()})
    before = model.head.pattern
    images, targets = small_batches(2)[1]
    F.mse_loss(model(images), targets).backward()
    assert topologies[0].step() and model.head.pattern != before


@pytest.mark.parametrize("make", [RigL, SET])
@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_layers_may_be_frozen_later_and_no_longer(form, make):
    model = form(Net())
    weights = [layer._parameters.get("values", layer._parameters.get("weight")) for layer in layers(model)]
    weights[0].requires_grad_(False)
    until = {"until": 100} if make is RigL else {}
    topology = make(model, SGD(model.parameters(), lr=0.1), interval=1, **until)
    for frozen, moving in ((model.conv, model.head), (model.head, model.conv)):
        before = frozen.pattern, moving.pattern
        images, targets = small_batches(1)[0]
        F.mse_loss(model(images), targets).backward()
        assert topology.step()
        assert frozen.pattern == before[0] and moving.pattern != before[1]
        for weight in weights:
            weight.requires_grad_(not weight.requires_grad)
    for weight in weights:
        weight.requires_grad_(False)
    assert topology.step()  # nothing to move, nothing to refuse


def test_layers_that_were_not_called_stay_where_growth_needs_gradients():
    model = nn.ModuleDict({"used": DenseLinear(4, 4), "unused": DenseLinear(4, 4)})
    for layer in model.values():
        layer.random_prune_by_pct(0.5)
    model = to_sparse(model)
    topology = RigL(model, SGD(model.parameters(), lr=0.1), until=100, interval=1, alpha=1.0)
    patterns = {name: layer.pattern for name, layer in model.items()}
    model["used"](torch.randn(3, 4)).square().sum().backward()
    assert topology.step()
    assert model["unused"].pattern is patterns["unused"] and model["used"].pattern != patterns["used"]


@pytest.mark.parametrize("make_topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@pytest.mark.parametrize("form", [copy.deepcopy, to_sparse], ids=["masked", "sparse"])
def test_another_default_device_changes_nothing(form, make_topology):
    net, data = Net(), small_batches(6)
    trained = []
    for device in ("cpu", "meta"):
        model = form(net)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        with torch.device(device):
            train(model, optimizer, make_topology(model, optimizer), data)
        trained.append(model.state_dict())
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_nothing_is_recorded_but_in_the_step_of_an_update():
    model = to_sparse(Net())
    optimizer = SGD(model.parameters(), lr=0.1)
    topology = RigL(model, optimizer, until=7, interval=3)
    recorded = []
    for images, targets in small_batches(8):
        recorded.append(bool(model.conv._forward_hooks))
        assert topology.is_recording is recorded[-1]
        F.mse_loss(model(images), targets).backward()
        topology.step()
    assert recorded == [False, False, True, False, False, True, False, False]
    assert not SET(model, optimizer, interval=1).is_recording


def test_a_compiled_model_runs_itself_where_it_is_recorded():
    net, data, trained = to_sparse(Net()), small_batches(5), []
    for compiling in (False, True):
        model = copy.deepcopy(net)
        compiled = torch.compile(model, backend="aot_eager") if compiling else model
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        topology = RigL(model, optimizer, until=9, interval=2)
        for images, targets in data:
            optimizer.zero_grad()
            F.mse_loss((model if topology.is_recording else compiled)(images), targets).backward()
            if not topology.step():
                optimizer.step()
        trained.append(model)
    for name, tensor in trained[0].state_dict().items():
        torch.testing.assert_close(trained[1].state_dict()[name], tensor, rtol=1e-9, atol=1e-12)
    torch.compiler.reset()


def test_an_update_without_a_backward_is_refused_and_changes_nothing():
    model = to_sparse(Net())
    topology = RigL(model, SGD(model.parameters(), lr=0.1), until=7, interval=1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="call step\\(\\) after the backward"):
        topology.step()
    assert topology.steps == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_refusals():
    model = to_sparse(Net())
    optimizer = SGD(model.parameters(), lr=0.1)
    plain = torch.optim.Adam(model.parameters())
    plain.register_state_dict_pre_hook(lambda optimizer: None)  # a hook of somebody else
    with pytest.raises(ValueError, match=r"state of this Adam would not follow .*\['conv', 'head'\]"):
        RigL(model, plain, until=10)
    with pytest.raises(ValueError, match="no weight of the model's prunable layers"):
        RigL(model, SGD(Net().parameters(), lr=0.1), until=10)
    masked = Net()
    RigL(masked, torch.optim.Adam(masked.parameters()), until=10)
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer, got float"):
        RigL(model, 0.1, until=10)
    with pytest.raises(TypeError, match="model must be an nn.Module, got list"):
        RigL([model], optimizer, until=10)
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        RigL(model, optimizer, until=10, interval=0)
    with pytest.raises(ValueError, match=r"zeta must be in \[0, 1\], got 2"):
        SET(model, optimizer, interval=1, zeta=2)
    with pytest.raises(TypeError, match="generator must be a torch.Generator, got 3"):
        SET(model, optimizer, interval=1, generator=3)
    settings = dict(drop=smallest_magnitude, grow=LargestGradient(), fraction=constant_fraction(0.1), interval=1)
    for name, wrong in [("drop", 3), ("grow", LargestGradient), ("start", 0), ("fraction", 0.3)]:
        with pytest.raises(TypeError, match=f"{name} must be"):
            DynamicSparsity(model, optimizer, **{**settings, name: wrong})
    topology = SET(model, optimizer, interval=1)
    topology.fraction = lambda step: 1.5
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 1.5"):
        topology.step()
    with pytest.raises(ValueError, match="must have the keys 'generator' and 'steps', got \\['steps'\\]"):
        topology.load_state_dict({"steps": 3})


def test_a_plain_copy_of_an_optimizer_is_noticed_before_anything_moves():
    model = to_sparse(Net())
    optimizer = follow_patterns(torch.optim.Adam(model.parameters()))
    topology = SET(model, optimizer, interval=1)
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    buffer.seek(0)
    topology._optimizer = torch.load(buffer, weights_only=False)
    topology._optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"]
    pattern = model.conv.pattern
    with pytest.raises(ValueError, match="would not follow"):
        topology.step()
    assert model.conv.pattern is pattern
