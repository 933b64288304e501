"""Pruning in the middle of a training run, against the same run computed densely with plain torch."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref

import pytest

torch = pytest.importorskip("torch")

from dense_training import DenseTraining, Net, batch, run_both, set_masks, sparse_net, sparse_step  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import Pattern, optim, pruning  # noqa: E402
from mpl_sparse.nn import DenseLinear, prunable, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD, follow, follow_patterns  # noqa: E402


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


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_pruning_in_a_closure(make, by_name):
    masked = DenseLinear(6, 4).double()
    masked.random_prune_by_pct(0.5)
    trained, moved = [], masked.mask.flip(1)  # as many weights, elsewhere
    for inside in (True, False):
        layer = to_sparse(masked)
        optimizer = follow_patterns(make(layer.parameters()))

        def backward(layer=layer, optimizer=optimizer, mask=None):
            optimizer.zero_grad()
            loss = layer(torch.linspace(-1, 1, 18, dtype=torch.float64).view(3, 6)).square().sum()
            loss.backward()
            if mask is not None:
                layer.set_mask(mask)
            return loss

        backward()
        optimizer.step()
        if inside:
            closure = functools.partial(backward, mask=moved)
            optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        else:
            backward(mask=moved)
            optimizer.step()
        trained.append(layer.values)
    assert torch.equal(*trained)


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


def stateful(parameters):
    return SGD(parameters, lr=0.1, momentum=0.9)


def trained(make=stateful):
    model = sparse_net()
    optimizer = make(model.parameters())
    for _ in range(2):
        sparse_step(model, optimizer, *batch())
    return model, optimizer


def same_count_elsewhere(model):
    """Another pattern of as many weights: sizes tell nothing."""
    for layer in model.prunable_layers:
        layer.set_mask(layer.mask.flip(0))


@pytest.mark.parametrize("change", [lambda model: model.prune_by_pct(0.3), same_count_elsewhere])
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.parametrize("make", [stateful, lambda parameters: follow_patterns(torch.optim.Adam(parameters))])
def test_a_checkpoint_loads_in_either_order(change, order, make):
    model, optimizer = trained(make)
    twin, twin_optimizer = trained(make)
    change(model)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    if order == "model first":
        twin.load_state_dict(saved[0]), twin_optimizer.load_state_dict(saved[1])
    else:
        twin_optimizer.load_state_dict(saved[1]), twin.load_state_dict(saved[0])
    for _ in range(2):
        data = batch()
        sparse_step(model, optimizer, *data), sparse_step(twin, twin_optimizer, *data)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), twin.parameters()))
        model.prune_by_pct(0.3), twin.prune_by_pct(0.3)


@pytest.mark.parametrize("change", [lambda model: model.prune_by_pct(0.3), same_count_elsewhere])
@pytest.mark.parametrize("use", ["step", "state_dict"])
def test_state_of_another_pattern_is_an_error_and_moves_nothing(change, use):
    model, optimizer = trained()
    saved = copy.deepcopy(optimizer.state_dict())
    change(model)
    optimizer.state_dict()
    optimizer.load_state_dict(saved)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"the state of parameter 0 was made for another pattern .*load the model's"
        ):
            optimizer.state_dict() if use == "state_dict" else sparse_step(model, optimizer, *batch())
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    assert all(
        torch.equal(a["momentum_buffer"], b["momentum_buffer"])
        for a, b in zip(optimizer.state.values(), saved["state"].values())
    )


def test_the_error_tells_the_parameters_name():
    model, optimizer = trained()
    saved = optimizer.state_dict()
    model.head.prune_by_pct(0.5)
    try:
        other = SGD(list(model.named_parameters()), lr=0.1)
    except TypeError:
        pytest.skip("this torch's optimizers take no names")
    other.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"the state of parameter 'head.values' .* \(42 weights\)"):
        other.state_dict()


def test_torchs_own_checkpoint_is_judged_by_its_sizes():
    model, optimizer = trained()
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["pattern_ids"]
    optimizer.load_state_dict(saved)
    sparse_step(model, optimizer, *batch())
    model.conv.prune_by_pct(0.5)
    optimizer.state_dict()
    optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match="parameter 0"):
        sparse_step(model, optimizer, *batch())


def test_a_plain_torch_optimizer_loads_and_is_followed_later():
    model, optimizer = trained()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    plain.load_state_dict(optimizer.state_dict())
    follow_patterns(plain)
    assert "pattern_ids" not in plain.param_groups[0]
    same_count_elsewhere(model)
    first, second = (each.state_dict()["state"] for each in (optimizer, plain))
    assert all(torch.equal(first[i]["momentum_buffer"], second[i]["momentum_buffer"]) for i in first)


def test_ids_are_only_in_state_dicts_that_need_them():
    model = sparse_net()
    optimizer = stateful(model.parameters())
    assert "pattern_ids" not in optimizer.state_dict()["param_groups"][0]
    sparse_step(model, optimizer, *batch())
    ids = optimizer.state_dict()["param_groups"][0]["pattern_ids"]
    assert ids == [model.conv.pattern.id, None, model.head.pattern.id, None]
    assert "pattern_ids" not in optimizer.param_groups[0]
    plain = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)
    follow_patterns(plain)
    sum(plain.param_groups[0]["params"]).sum().backward()
    plain.step()
    assert "pattern_ids" not in plain.state_dict()["param_groups"][0]


def test_the_state_of_the_masked_model_is_taken():
    """Training goes from the masked to the sparse form without a jump."""
    torch.manual_seed(0)
    masked = Net().double().prune_by_pct(0.3)
    optimizer = torch.optim.AdamW(masked.parameters(), lr=0.01)
    for _ in range(2):
        sparse_step(masked, optimizer, *batch())
    model = to_sparse(masked)
    follower = optim.AdamW(model.parameters())
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        data = batch()
        sparse_step(masked, optimizer, *data), sparse_step(model, follower, *data)
        for layer, dense in zip(model.prunable_layers, masked.prunable_layers):
            torch.testing.assert_close(layer.values, dense.weight[dense.mask])
        optimizer.state_dict(), follower.state_dict()


def test_an_optimizer_that_the_model_holds_goes_along_to_the_sparse_form():
    torch.manual_seed(0)
    masked = Net().double().prune_by_pct(0.3)
    masked.optimizer = optim.Adam(masked.parameters(), lr=0.01)
    sparse_step(masked, masked.optimizer, *batch())
    model = to_sparse(masked)
    for _ in range(2):
        data = batch()
        sparse_step(masked, masked.optimizer, *data), sparse_step(model, model.optimizer, *data)
        for layer, dense in zip(model.prunable_layers, masked.prunable_layers):
            torch.testing.assert_close(layer.values, dense.weight[dense.mask])
            assert model.optimizer.state[layer.values]["exp_avg"].shape == (layer.num_weight,)


def test_a_masked_model_trains_as_with_torch():
    """Its state has the size of the weights, pruned or not: nothing moves."""
    trainings = []
    for kind in (optim.Adam, torch.optim.Adam):
        torch.manual_seed(0)
        model = Net()
        optimizer = kind(model.parameters(), lr=0.01)
        for _ in range(3):
            sparse_step(model, optimizer, *batch(torch.float32))
            model.prune_by_pct(0.3)
            sparse_step(model, optimizer, *batch(torch.float32))
            set_masks(model)
        trainings.append(model.state_dict())
    assert all(torch.equal(entries, trainings[1][name]) for name, entries in trainings[0].items())


class Custom(torch.optim.Optimizer):
    """An optimizer of somebody else: state in a list, in a dict, in a tuple, of other sizes, and no tensor at all."""

    def __init__(self, parameters, lr=0.1, start=7.0):
        super().__init__(parameters, {"lr": lr, "start": start})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    count = torch.arange(1.0, parameter.numel() + 1)
                    state.update(
                        list=[count, "text"], dict={"of": (count, count.long())}, flat=count.clone(), one=torch.ones(1)
                    )
                    state.update(
                        other=torch.ones(3, 2), number=4, none=None, named=torch.full_like(count, group["start"])
                    )


@pytest.mark.parametrize("number", [0.5, 2])
def test_state_of_any_shape_and_where_it_starts(number):
    model = sparse_net()
    optimizer = follow_patterns(Custom([model.head.values], start=9.0), starts={"flat": number, "named": "start"})
    optimizer.step()
    optimizer.param_groups[0]["start"] = 8.0
    old, new = model.head.pattern, Pattern.from_mask(model.head.mask.roll(1, 1))
    model.head.pattern = new
    optimizer.step()
    state = optimizer.state[model.head.values]
    where = dict(zip(old.flat_positions().tolist(), range(1, old.nnz + 1)))
    moved = [where.get(position, 0) for position in new.flat_positions().tolist()]
    assert 0 in moved
    assert state["list"][0].tolist() == moved and state["list"][1] == "text"
    assert [entries.tolist() for entries in state["dict"]["of"]] == [moved, moved]
    assert state["dict"]["of"][1].dtype == torch.int64 and isinstance(state["dict"]["of"], tuple)
    assert state["flat"].tolist() == [count or number for count in moved]
    assert state["named"].tolist() == [9.0 if count else 8.0 for count in moved]
    assert (state["one"].tolist(), state["other"].shape, state["number"], state["none"]) == ([1.0], (3, 2), 4, None)


def test_starts_are_checked():
    optimizer = torch.optim.SGD(sparse_net().parameters(), lr=0.1)
    for starts in (["lr"], {1: 2.0}, {"sum": None}):
        with pytest.raises(TypeError, match="starts must map names of state"):
            follow_patterns(optimizer, starts=starts)
    with pytest.raises(ValueError, match="'sum' is to start at 'nonsense', which is no option"):
        follow_patterns(optimizer, starts={"sum": "nonsense"})
    assert not optimizer._optimizer_step_pre_hooks
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer, got Net"):
        follow_patterns(sparse_net())


def test_a_mixin_makes_any_class_follow():
    class Mine(optim.FollowsPatterns, Custom):
        pass

    model = sparse_net()
    optimizer = Mine(model.parameters())
    optimizer.step()
    model.prune_by_pct(0.5)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    for each, parameters in ((optimizer, model.parameters()), (twin_optimizer, twin.parameters())):
        each.step()
        assert all(each.state[parameter]["flat"].numel() == parameter.numel() for parameter in parameters)


def test_two_optimizers_and_a_parameter_in_none():
    model = sparse_net()
    first, second = SGD([model.conv.values], lr=0.1, momentum=0.9), optim.Adam([model.head.values], lr=0.1)
    third = optim.Rprop([model.conv.values, model.head.values])
    for _ in range(3):
        for optimizer in (first, second, third):
            sparse_step(model, optimizer, *batch())
        set_masks(model)
    for optimizer in (first, second, third):
        optimizer.state_dict()
        for parameter, state in optimizer.state.items():
            assert all(entries.numel() in (1, parameter.numel()) for entries in state.values())


def test_gradients_add_up_across_pruning():
    """Of the first gradient the surviving weights keep their part."""
    model, optimizer = trained()
    momentum = optimizer.state[model.head.values]["momentum_buffer"].clone()
    optimizer.zero_grad()
    F.mse_loss(model(batch()[0]), batch()[1]).backward()
    old, first = model.head.mask, model.head.values.grad.clone()
    model.head.prune_by_pct(0.4)
    kept = model.head.mask[old]
    before = model.head.values.detach().clone()
    data = batch()
    (second,) = torch.autograd.grad(F.mse_loss(model(data[0]), data[1]), [model.head.values])
    F.mse_loss(model(data[0]), data[1]).backward()
    optimizer.step()
    expected = before - 0.1 * (0.9 * momentum[kept] + first[kept] + second)
    torch.testing.assert_close(model.head.values.detach(), expected)


def test_another_dtype_before_the_first_step_and_through_a_checkpoint():
    model, optimizer = trained()
    model.float()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)  # torch's way to cast the state
    model.prune_by_pct(0.3)
    sparse_step(model, optimizer, *batch(torch.float32))
    for parameter, state in optimizer.state.items():
        assert parameter.dtype == state["momentum_buffer"].dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=str)
def test_a_gradient_scaler(options):
    model, twin = sparse_net(torch.float32), sparse_net(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer, plain = (optim.Adam(each.parameters(), lr=0.01, **options) for each in (model, twin))
    for _ in range(4):
        data = batch(torch.float32)
        optimizer.zero_grad()
        scaler.scale(F.mse_loss(model(data[0]), data[1])).backward()
        scaler.step(optimizer)
        scaler.update()
        sparse_step(twin, plain, *data)
        for ours, theirs in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(ours, theirs)
        for each in (model, twin):
            each.head.set_mask(each.head.mask.roll(1, 1))


def test_mpl_sparses_own_files_hold_the_state(tmp_path):
    model, optimizer = trained()
    model.prune_by_pct(0.3)
    mpl_sparse.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    torch.save(optimizer.state_dict(), tmp_path / "torch")
    saved = mpl_sparse.load(tmp_path / "checkpoint")
    for state in (saved["optimizer"], torch.load(tmp_path / "torch", weights_only=True)):
        twin = sparse_net()
        twin_optimizer = stateful(twin.parameters())
        twin.load_state_dict(saved["model"]), twin_optimizer.load_state_dict(state)
        for parameter, other in zip(model.parameters(), twin.parameters()):
            buffers = optimizer.state[parameter]["momentum_buffer"], twin_optimizer.state[other]["momentum_buffer"]
            assert torch.equal(*buffers)
        sparse_step(twin, twin_optimizer, *batch())


def test_a_step_looks_at_no_pattern_while_none_changes(monkeypatch):
    """What following costs a step does not grow with the model."""
    model, optimizer = trained()
    monkeypatch.setattr(follow, "pattern_of", lambda parameter: 1 / 0)
    sparse_step(model, optimizer, *batch())
    with pytest.raises(ZeroDivisionError):
        model.prune_by_pct(0.3)
        sparse_step(model, optimizer, *batch())


def test_a_group_that_is_added_to_a_plain_torch_optimizer_is_followed():
    model = sparse_net()
    optimizer = follow_patterns(torch.optim.Adam(model.conv.parameters()))
    sparse_step(model, optimizer, *batch())
    optimizer.add_param_group({"params": list(model.head.parameters())})
    sparse_step(model, optimizer, *batch())
    before = model.head.mask, optimizer.state[model.head.values]["exp_avg"].clone()
    model.head.prune_by_pct(0.3)
    optimizer.state_dict()
    assert torch.equal(optimizer.state[model.head.values]["exp_avg"], before[1][model.head.mask[before[0]]])


def test_a_copy_looks_at_the_patterns_itself(monkeypatch):
    """In another process the patterns may have been bound as often as here, and be others."""
    model, optimizer = trained()
    model.prune_by_pct(0.3)
    saved = pickle.dumps((model, optimizer))
    monkeypatch.setattr(follow, "times_bound", lambda: follow.followed[optimizer].seen[0])
    twin, twin_optimizer = pickle.loads(saved)
    sparse_step(twin, twin_optimizer, *batch())
    assert twin_optimizer.state[twin.head.values]["momentum_buffer"].shape == twin.head.values.shape
