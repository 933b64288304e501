"""LBFGS across changes of the pattern: its curvature pairs restricted to the weights that stay."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from dense_training import batch, sparse_net  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse import optim  # noqa: E402
from mpl_sparse.nn import SparseLinear  # noqa: E402
from mpl_sparse.optim import follow_patterns  # noqa: E402


def closure_of(model, optimizer, inputs, targets):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    return closure


def steps(model, optimizer, data, count):
    return [optimizer.step(closure_of(model, optimizer, *data)).item() for _ in range(count)]


OPTIONS = {
    "plain": {"lr": 0.3, "max_iter": 4},
    "strong wolfe": {"max_iter": 5, "line_search_fn": "strong_wolfe"},
    "short history": {"lr": 0.3, "max_iter": 5, "history_size": 2},
    "tensor lr": {"lr": torch.tensor(0.3), "max_iter": 1},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@every_option
def test_bitwise_torchs_while_patterns_stay(options):
    models, data = [sparse_net(), sparse_net()], batch()
    optimizers = [kind.LBFGS(model.parameters(), **options) for kind, model in zip((optim, torch.optim), models)]
    for _ in range(3):
        losses = [steps(model, optimizer, data, 2) for model, optimizer in zip(models, optimizers)]
        assert losses[0] == losses[1]
        models[0].head.set_mask(models[0].head.mask)  # another pattern, but the same
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models)))


@every_option
@pytest.mark.parametrize("make", [optim.LBFGS, lambda *a, **k: follow_patterns(torch.optim.LBFGS(*a, **k))])
def test_it_goes_on_descending(options, make):
    model = sparse_net()
    data = [torch.cat(parts) for parts in zip(*(batch() for _ in range(16)))]  # more than the weights can fit
    optimizer = make(model.parameters(), **options)
    steps(model, optimizer, data, 4)
    for change in (
        lambda: model.prune_by_pct(0.2),
        lambda: model.head.set_mask(torch.ones_like(model.head.mask)),
        lambda: (model.head.random_prune_by_pct(0.4), model.conv.set_mask(model.conv.mask.roll(1, 0))),
        lambda: model.conv.prune_by_pct(1.0),
    ):
        change()
        losses = steps(model, optimizer, data, 6)
        assert losses[-1] < losses[0]
        assert all(entries.isfinite().all() for entries in model.parameters())


def state_of(optimizer):
    return optimizer.state[optimizer.param_groups[0]["params"][0]]


def test_the_history_is_that_of_the_surviving_weights():
    """Against a direct computation, position by position, over a model of sparse, dense and sparse parameters."""
    model, data = sparse_net(), batch()
    optimizer = optim.LBFGS(model.parameters(), max_iter=8, line_search_fn="strong_wolfe")
    steps(model, optimizer, data, 2)
    state = copy.deepcopy(state_of(optimizer))
    places = all_places(model)
    model.prune_by_pct(0.2)
    model.head.set_mask(model.head.mask | (torch.rand(model.head.weight_shape) < 0.2))
    optimizer.state_dict()
    now, moved = all_places(model), state_of(optimizer)

    def by_hand(flat):
        known = dict(zip(places, flat.tolist()))
        return torch.tensor([known.get(place, 0.0) for place in now], dtype=torch.float64)

    pairs = [(by_hand(y), by_hand(s)) for y, s in zip(state["old_dirs"], state["old_stps"])]
    pairs = [(y, s) for y, s in pairs if y @ s > 1e-10]
    assert 1 < len(pairs) == len(moved["old_dirs"]) == len(moved["old_stps"]) == len(moved["ro"])
    for (y, s), new_y, new_s, ro in zip(pairs, moved["old_dirs"], moved["old_stps"], moved["ro"]):
        assert torch.equal(y, new_y) and torch.equal(s, new_s)
        torch.testing.assert_close(ro, 1 / (y @ s))
    torch.testing.assert_close(moved["H_diag"], pairs[-1][0] @ pairs[-1][1] / (pairs[-1][0] @ pairs[-1][0]))
    assert torch.equal(moved["prev_flat_grad"], by_hand(state["prev_flat_grad"]))
    assert moved["n_iter"] == state["n_iter"] and moved["func_evals"] == state["func_evals"]

    count = len(moved["old_dirs"])
    optimizer.param_groups[0]["max_iter"] = 1
    steps(model, optimizer, data, 1)  # the change of the function itself enters no pair
    assert len(state_of(optimizer)["old_dirs"]) == count


def all_places(model):
    """(layer, position) of each entry of the flat vectors."""
    places = []
    for name in ("conv", "head"):
        layer = getattr(model, name)
        places += [(name, position) for position in layer.pattern.flat_positions().tolist()]
        places += [(name, "bias", i) for i in range(len(layer.bias))]
    return places


def quadratic(dtype=torch.float64):
    """A layer of one output: with input I the loss is a quadratic function of its weights."""
    torch.manual_seed(0)
    layer = SparseLinear.from_dense(nn.Linear(8, 1, bias=False, dtype=dtype))
    root = torch.randn(8, 8, dtype=dtype)
    return layer, root @ root.T / 8 + torch.eye(8, dtype=dtype), torch.randn(8, dtype=dtype)


def test_a_quadratic_function_is_solved_after_pruning():
    layer, matrix, vector = quadratic()
    optimizer = optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe", max_iter=10)

    def closure():
        optimizer.zero_grad()
        weight = layer(torch.eye(8, dtype=torch.float64)).squeeze(1)
        loss = 0.5 * weight @ matrix @ weight - vector @ weight
        loss.backward()
        return loss

    for kept in ([True] * 8, [True, False] * 4, [False, True, True, True] * 2):
        layer.set_mask(torch.tensor([kept]))
        for _ in range(6):
            optimizer.step(closure)
        places = torch.tensor(kept).nonzero().squeeze(1)
        expected = torch.linalg.solve(matrix[places][:, places], vector[places])
        torch.testing.assert_close(layer.values.detach(), expected, rtol=1e-5, atol=1e-6)


def test_without_a_pair_it_starts_anew():
    layer, _, _ = quadratic()
    optimizer = optim.LBFGS(layer.parameters(), lr=0.1, max_iter=3)
    data = torch.eye(8, dtype=torch.float64), torch.ones(8, 1, dtype=torch.float64)
    steps(layer, optimizer, data, 1)
    assert state_of(optimizer)["old_dirs"]
    evaluations = state_of(optimizer)["func_evals"]
    layer.set_mask(torch.zeros(1, 8, dtype=torch.bool))
    optimizer.state_dict()
    assert state_of(optimizer) == {"func_evals": evaluations}
    layer.set_mask(torch.ones(1, 8, dtype=torch.bool))
    twin = copy.deepcopy(layer)
    fresh = torch.optim.LBFGS(twin.parameters(), lr=0.1, max_iter=3)
    assert steps(layer, optimizer, data, 3) == steps(twin, fresh, data, 3)
    assert torch.equal(layer.values, twin.values)


def test_pruned_before_the_first_step_and_after_an_idle_one():
    model, data = sparse_net(), batch()
    optimizer = optim.LBFGS(model.parameters(), lr=0.3, max_iter=2, tolerance_grad=1e9)
    model.prune_by_pct(0.2)
    steps(model, optimizer, data, 1)  # the gradient is below the tolerance: no vector is made
    model.prune_by_pct(0.2)
    optimizer.param_groups[0]["tolerance_grad"] = 1e-7
    losses = steps(model, optimizer, data, 3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(copied):
    model, data = sparse_net(), batch()
    optimizer = optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
    steps(model, optimizer, data, 2)
    model.prune_by_pct(0.2)
    twin, twin_optimizer = copied((model, optimizer))
    for _ in range(2):
        assert steps(model, optimizer, data, 2) == steps(twin, twin_optimizer, data, 2)
        model.prune_by_pct(0.2), twin.prune_by_pct(0.2)


def test_a_state_dict_goes_on_alike():
    model, data = sparse_net(), batch()
    optimizer = optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
    steps(model, optimizer, data, 2)
    model.prune_by_pct(0.2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    twin = sparse_net()
    twin_optimizer = optim.LBFGS(twin.parameters())
    twin.load_state_dict(saved[0]), twin_optimizer.load_state_dict(saved[1])
    assert steps(model, optimizer, data, 2) == steps(twin, twin_optimizer, data, 2)


@pytest.mark.parametrize(("layer", "number"), [("conv", 0), ("head", 2)])
@pytest.mark.parametrize("change", [lambda each: each.prune_by_rank(3), lambda each: each.set_mask(each.mask.flip(0))])
def test_state_of_another_pattern_is_an_error(layer, number, change):
    """The state is kept with the first parameter, and is about all of them."""
    model, data = sparse_net(), batch()
    optimizer = optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
    steps(model, optimizer, data, 1)
    saved = optimizer.state_dict()
    other = sparse_net()
    change(getattr(other, layer))
    other_optimizer = optim.LBFGS(other.parameters())
    other_optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match=f"the state of parameter {number} was made for another pattern"):
        steps(other, other_optimizer, data, 1)


def test_complex_parameters_beside_a_sparse_layer():
    layer, _, _ = quadratic()
    phase = nn.Parameter(torch.ones(2, dtype=torch.complex128))
    optimizer = optim.LBFGS([phase, *layer.parameters()], lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (layer(torch.eye(8, dtype=torch.float64)) - 3).square().sum() + (phase - 1j).abs().square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(4):
        layer.prune_by_rank(1)
        last = optimizer.step(closure).item()
    assert last < first and phase.detach().sub(1j).abs().max() < 0.7  # it was 1.4
