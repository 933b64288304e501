"""Pruning in the middle of a training run, against the same run computed densely with plain torch."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest

torch = pytest.importorskip("torch")

from dense_training import DenseTraining, Net, batch, run_both, set_masks, sparse_net, sparse_step  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from mpl_sparse import pruning  # noqa: E402
from mpl_sparse.nn import prunable, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD, follow_patterns  # noqa: E402


def load_other_pattern(model):
    """Grows and drops weights by way of load_state_dict, and keeps the values of those that stay."""
    twin = copy.deepcopy(model)
    set_masks(twin)
    model.load_state_dict(twin.state_dict())


ROUTES = {
    "layer by threshold": lambda model: [layer.prune_by_threshold(0.05) for layer in model.prunable_layers],
    "layer by rank": lambda model: [layer.prune_by_rank(9) for layer in model.prunable_layers],
    "layer by pct": lambda model: [layer.prune_by_pct(0.2) for layer in model.prunable_layers],
    "layer at random": lambda model: [layer.random_prune_by_pct(0.2) for layer in model.prunable_layers],
    "layer by scores": lambda model: model.head.prune_lowest(torch.rand(model.head.num_weight), 5),
    "model by threshold": lambda model: model.prune_by_threshold([0.05, None]),
    "model by rank": lambda model: model.prune_by_rank([5, 9]),
    "model by pct": lambda model: model.prune_by_pct(0.2),
    "model at random": lambda model: model.random_prune_by_pct(0.2),
    "function by threshold": lambda model: pruning.prune_by_threshold(model, 0.05),
    "function by rank": lambda model: pruning.prune_by_rank(model, 7),
    "function by pct": lambda model: pruning.prune_by_pct(model, [0.3, 0.1]),
    "function at random": lambda model: pruning.random_prune_by_pct(model, 0.2),
    "function by score": lambda model: pruning.prune_by_score(model, "magnitude", 0.2),
    "masks that grow": set_masks,
    "all grow": lambda model: [layer.set_mask(torch.ones_like(layer.mask)) for layer in model.prunable_layers],
    "other model's masks": lambda model: model.reinit_from_model(Net().double().random_prune_by_pct(0.5)),
    "load_state_dict": load_other_pattern,
    "twice between steps": lambda model: (set_masks(model), model.prune_by_pct(0.2)),
    "everything goes": lambda model: model.prune_by_pct(1.0),
}


@pytest.fixture
def model():
    return sparse_net()


@pytest.mark.parametrize("prune", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"momentum": 0.7, "dampening": 0.2, "foreach": True},
    ],
    ids=["momentum", "nesterov", "foreach"],
)
def test_sgd_keeps_the_momentum_of_surviving_weights(model, prune, options):
    optimizer = SGD(model.parameters(), lr=0.1, **options)
    dense = DenseTraining(model, lambda parameters: torch.optim.SGD(parameters, lr=0.1, **options))
    run_both(model, optimizer, dense, 4)
    for _ in range(2):
        prune(model)
        if prune is load_other_pattern:
            dense.weights[0].data, dense.weights[1].data = (x.weight.detach().to_dense() for x in model.prunable_layers)
        dense.follow()
        run_both(model, optimizer, dense, 3)


OTHERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True, foreach=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=0.1),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("prune", ["before the first step", "later"])
def test_torchs_optimizers_follow(model, make, prune):
    optimizer = make(model.parameters())
    assert follow_patterns(optimizer) is optimizer
    dense = DenseTraining(model, make)
    if prune == "later":
        run_both(model, optimizer, dense, 4)
    for change in (lambda model: model.prune_by_pct(0.4), set_masks):
        change(model)
        dense.follow()
        run_both(model, optimizer, dense, 4)


def test_pruning_between_backward_and_step(model):
    """The layer moves its gradient, the optimizer its momentum."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse_step(model, optimizer, *batch())
    optimizer.zero_grad()
    F.mse_loss(model(batch()[0]), batch()[1]).backward()
    old, momentum = model.head.mask, optimizer.state[model.head.values]["momentum_buffer"].clone()
    gradient = model.head.values.grad.clone()
    model.head.prune_by_pct(0.5)
    kept = model.head.mask[old]
    expected = model.head.values - 0.1 * (0.9 * momentum[kept] + gradient[kept])
    optimizer.step()
    torch.testing.assert_close(model.head.values, expected)


def test_the_optimizer_never_holds_a_stale_parameter(model):
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for prune in ROUTES.values():
        prune(model)
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
        sparse_step(model, optimizer, *batch())
        assert set(optimizer.state) == set(model.parameters())
        for parameter, state in optimizer.state.items():
            assert state["momentum_buffer"].shape == parameter.shape


@pytest.mark.parametrize("pruned", ["pruned before saving", "unpruned"])
@pytest.mark.parametrize("make", [SGD, torch.optim.Adam], ids=["SGD", "Adam"])
def test_state_dict_round_trip_in_mid_run(model, make, pruned):
    options = {"momentum": 0.9} if make is SGD else {}
    optimizer = follow_patterns(make(model.parameters(), lr=0.01, **options))
    for _ in range(3):
        sparse_step(model, optimizer, *batch())
    if pruned == "pruned before saving":
        model.prune_by_pct(0.3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    twin = Net().double().to_sparse()
    twin_optimizer = follow_patterns(make(twin.parameters(), lr=0.5, **options))
    twin.load_state_dict(saved[0])
    twin_optimizer.load_state_dict(saved[1])
    for _ in range(2):
        for _ in range(3):
            data = batch()
            sparse_step(model, optimizer, *data)
            sparse_step(twin, twin_optimizer, *data)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), twin.parameters()))
        model.prune_by_pct(0.3), twin.prune_by_pct(0.3)


def test_the_state_dict_is_torchs(model):
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse_step(model, optimizer, *batch())
    state = optimizer.state_dict()
    plain = torch.optim.SGD(model.parameters(), lr=0.5)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    followed = SGD(model.parameters(), lr=0.1)
    followed.load_state_dict(plain.state_dict())
    for parameter, entries in optimizer.state.items():
        assert torch.equal(followed.state[parameter]["momentum_buffer"], entries["momentum_buffer"])


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("first", ["model", "optimizer"])
@pytest.mark.parametrize("prune", ["before", "after"])
def test_copies_of_model_and_optimizer_keep_following(model, duplicate, first, prune):
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        sparse_step(model, optimizer, *batch())
    if prune == "before":
        model.prune_by_pct(0.3)
    if first == "model":
        twin, twin_optimizer = duplicate((model, optimizer))
    else:
        twin_optimizer, twin = duplicate((optimizer, model))
    assert twin_optimizer.param_groups[0]["params"][0] is next(twin.parameters())
    if prune == "after":
        model.prune_by_pct(0.3), twin.prune_by_pct(0.3)
    for _ in range(3):
        data = batch()
        sparse_step(model, optimizer, *data)
        sparse_step(twin, twin_optimizer, *data)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), twin.parameters()))
        model.prune_by_pct(0.3), twin.prune_by_pct(0.3)


def test_added_parameter_groups_follow():
    torch.manual_seed(0)
    model = Net().double().to_sparse()
    optimizer = SGD(model.conv.parameters(), lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    dense = DenseTraining(model, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    for _ in range(3):
        model.prune_by_pct(0.3)
        dense.follow()
        run_both(model, optimizer, dense, 2)


def test_dense_and_sparse_parameters_mix():
    torch.manual_seed(0)
    model = prunable(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)))
    model = nn.Sequential(to_sparse(model), nn.Linear(6, 2))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
        pruning.prune_by_pct(model, 0.3)


def test_following_twice_is_following_once(model):
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse_step(model, optimizer, *batch())
    model.prune_by_pct(0.3)
    follow_patterns(optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    sparse_step(model, optimizer, *batch())


def test_nothing_is_kept_alive():
    model = Net().double().to_sparse()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse_step(model, optimizer, *batch())
    parameter, optimizer_ref = weakref.ref(model.head.values), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert optimizer_ref() is None
    assert parameter() is None


def test_momentum_of_a_grown_weight_starts_at_zero(model):
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse_step(model, optimizer, *batch())
    mask = model.head.mask
    model.head.set_mask(torch.ones_like(mask))
    buffer = optimizer.state_dict()["state"][2]["momentum_buffer"]
    assert buffer.shape == (mask.numel(),)
    assert (buffer[~mask.flatten()] == 0).all()
    assert (buffer[mask.flatten()] != 0).all()
