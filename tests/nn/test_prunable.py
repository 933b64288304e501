"""Pruning on all four layers: what goes, what stays, and where the values and the parameter are afterwards."""

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear, carry, pattern_of  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

LAYERS = [
    lambda: DenseLinear(6, 5),
    lambda: SparseLinear(6, 5),
    lambda: DenseConv2d(2, 3, 2),
    lambda: SparseConv2d(2, 3, 2),
]
layers = pytest.mark.parametrize("make", LAYERS)


def full_weight(layer):
    """The weight that the layer computes with, dense."""
    weight = layer.weight.detach()
    return weight.to_dense() if weight.is_sparse else torch.where(layer.mask, weight, 0)


def set_values(layer, values):
    with torch.no_grad():
        (layer.values if hasattr(layer, "values") else layer.weight.view(-1)).copy_(torch.as_tensor(values))


@layers
def test_prune_by_threshold_keeps_what_is_at_least_thr(make):
    layer = make()
    numel = layer.weight_shape.numel()
    values = torch.arange(numel).float() - numel // 2
    values[1] = torch.nan
    set_values(layer, values)
    layer.prune_by_threshold(3)
    expected = (values.abs() >= 3) | values.isnan()
    assert torch.equal(layer.mask.flatten(), expected) and layer.num_weight == expected.sum()
    assert torch.equal(layer.remaining_weight().nan_to_num(), values[expected].nan_to_num())
    layer.prune_by_threshold(math.inf)
    assert layer.remaining_weight().isnan().all()


@layers
def test_rank_drops_exactly_that_many_and_breaks_ties_by_position(make):
    layer = make()
    numel = layer.weight_shape.numel()
    set_values(layer, torch.ones(numel))
    layer.prune_by_rank(4)
    assert layer.mask.flatten().tolist() == [False] * 4 + [True] * (numel - 4)
    layer.prune_by_rank(0)
    assert layer.num_weight == numel - 4
    layer.prune_by_rank(numel - 4)
    assert layer.num_weight == 0 and layer.density == 0


@layers
@pytest.mark.parametrize("pct", [0, 0.1, 0.5, 0.99, 1, 1.0])
def test_pct_drops_its_part_of_what_remains(make, pct):
    for method in ("prune_by_pct", "random_prune_by_pct"):
        layer = make()
        layer.prune_by_rank(3)
        before, remaining = full_weight(layer), layer.num_weight
        getattr(layer, method)(pct)
        assert layer.num_weight == remaining - int(pct * remaining)
        assert torch.equal(full_weight(layer), torch.where(layer.mask, before, 0))
        if method == "prune_by_pct" and layer.num_weight > 0:
            dropped = before[~layer.mask]
            assert dropped.abs().max() <= layer.remaining_weight().abs().min()


@layers
def test_random_pruning_follows_its_generator(make):
    first, second, other = make(), make(), make()
    first.random_prune_by_pct(0.5, torch.Generator().manual_seed(1))
    second.random_prune_by_pct(0.5, torch.Generator().manual_seed(1))
    other.random_prune_by_pct(0.5, torch.Generator().manual_seed(2))
    assert torch.equal(first.mask, second.mask) and not torch.equal(first.mask, other.mask)


@given(st.lists(st.sampled_from([0.0, 1.0, -2.0, math.nan, math.inf]), min_size=30, max_size=30), st.integers(0, 30))
def test_dense_and_sparse_prune_alike(values, rank):
    dense, sparse = DenseLinear(6, 5), SparseLinear(6, 5)
    for layer in (dense, sparse):
        set_values(layer, values)
        layer.prune_by_rank(rank)
    assert torch.equal(dense.mask, sparse.mask) and dense.pattern == sparse.pattern


@layers
def test_nan_counts_as_the_largest(make):
    layer = make()
    numel = layer.weight_shape.numel()
    set_values(layer, torch.tensor([math.nan, math.inf] + [1.0] * (numel - 2)))
    layer.prune_by_rank(numel - 1)
    assert layer.remaining_weight().isnan().all()


@layers
def test_prune_lowest_takes_any_scores(make):
    layer = make()
    layer.prune_lowest(torch.arange(layer.num_weight, 0, -1), 2)
    assert layer.mask.flatten()[-3:].tolist() == [True, False, False]


@layers
def test_the_gradient_never_reaches_pruned_weights(make):
    layer = make()
    layer.prune_by_pct(0.5)
    shape = (2, 6) if "Linear" in type(layer).__name__ else (2, 2, 4, 4)
    layer(torch.randn(shape)).sum().backward()
    if hasattr(layer, "values"):
        assert layer.values.grad.shape == (layer.num_weight,)
    else:
        assert not layer.weight.grad[~layer.mask].any()


@pytest.mark.parametrize("make", LAYERS[1::2])
def test_a_new_pattern_stays_in_the_same_parameter(make):
    layer = make()
    values, optimizer = layer.values, torch.optim.SGD(layer.parameters(), lr=0.1)
    values.grad = torch.arange(values.numel()).float()
    before, grad = full_weight(layer), values.grad.clone()
    layer.prune_by_pct(0.5)
    mask = layer.mask
    assert layer.values is values and optimizer.param_groups[0]["params"][0] is values
    assert torch.equal(values, before[mask]) and torch.equal(values.grad, grad[mask.flatten()])
    assert pattern_of(values) is layer.pattern
    assert torch.equal(layer.row_ptr, torch.tensor(layer.pattern.row_ptr))
    assert torch.equal(layer.col_idx, torch.tensor(layer.pattern.col_idx))
    optimizer.step()
    layer.set_mask(torch.ones_like(mask))
    assert layer.num_weight == mask.numel() and not layer.values[~mask.flatten()].any()
    assert values.requires_grad and values.is_leaf


@pytest.mark.parametrize("make", LAYERS[1::2])
def test_training_goes_on_after_pruning_while_an_old_loss_lives(make):
    layer = make()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(layer(torch.randn((2, 6) if isinstance(layer, SparseLinear) else (2, 2, 4, 4))).sum())
        losses[-1].backward()
        optimizer.step()
        layer.prune_by_pct(0.3)


@layers
def test_an_empty_layer_still_works(make):
    layer = make()
    layer.prune_by_pct(1.0)
    for method in ("prune_by_pct", "random_prune_by_pct"):
        getattr(layer, method)(0.5)
    layer.prune_by_rank(0)
    layer.prune_by_threshold(1)
    output = layer(torch.randn((2, 6) if "Linear" in type(layer).__name__ else (2, 2, 4, 4)))
    output.sum().backward()
    assert layer.num_weight == 0 and torch.equal(output[:, 0].flatten()[0], layer.bias[0])


@layers
def test_set_mask_and_move_data(make):
    layer = make()
    mask = torch.rand(layer.weight_shape) < 0.5
    before = full_weight(layer)
    layer.set_mask(mask)
    assert torch.equal(layer.mask, mask) and torch.equal(full_weight(layer), torch.where(mask, before, 0))
    assert layer.pattern == Pattern.from_mask(mask) and layer.density == pytest.approx(mask.float().mean().item())
    layer.move_data(torch.device("cpu"))


@layers
@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda layer: layer.prune_by_threshold(-1), ValueError, "thr must be at least 0, got -1"),
        (lambda layer: layer.prune_by_threshold(math.nan), ValueError, "thr must be at least 0, got nan"),
        (lambda layer: layer.prune_by_threshold("1"), TypeError, "thr must be a real number, got '1'"),
        (lambda layer: layer.prune_by_rank(-1), ValueError, r"rank must be in \[0, .*got -1"),
        (lambda layer: layer.prune_by_rank(1000), ValueError, r"rank must be in \[0, .*got 1000"),
        (lambda layer: layer.prune_by_rank(1.0), TypeError, "rank must be an integer, got 1.0"),
        (lambda layer: layer.prune_by_rank(True), TypeError, "rank must be an integer, got True"),
        (lambda layer: layer.prune_by_pct(1.1), ValueError, r"pct must be in \[0, 1\], got 1.1"),
        (lambda layer: layer.prune_by_pct(-0.1), ValueError, "pct must be in"),
        (lambda layer: layer.prune_by_pct(math.nan), ValueError, "pct must be in .* got nan"),
        (lambda layer: layer.prune_by_pct(None), TypeError, "pct must be a real number, got None"),
        (lambda layer: layer.random_prune_by_pct(2), ValueError, "pct must be in"),
        (lambda layer: layer.prune_lowest([1], 1), TypeError, "scores must be a torch tensor, got list"),
        (lambda layer: layer.prune_lowest(torch.ones(3), 1), ValueError, r"scores must have shape .* got \(3,\)"),
        (lambda layer: layer.prune_lowest(layer.remaining_weight(), 99), ValueError, "count must be in"),
        (lambda layer: layer.set_mask(torch.ones(2, 2, dtype=torch.bool)), ValueError, "mask must have shape"),
        (lambda layer: layer.set_mask(layer.mask.float()), TypeError, "mask must be a bool tensor, got torch.float32"),
        (lambda layer: layer.set_mask([[True]]), TypeError, "mask must be a bool tensor"),
    ],
)
def test_refusals_change_nothing(make, act, error, words):
    layer = make()
    before = layer.num_weight
    with pytest.raises(error, match=words):
        act(layer)
    assert layer.num_weight == before


def test_carry():
    old = Pattern.from_mask(torch.tensor([[True, True, False], [False, True, False]]))
    new = Pattern.from_mask(torch.tensor([[False, True, True], [True, True, False]]))
    assert carry(torch.tensor([1.0, 2.0, 3.0]), old, new).tolist() == [2, 0, 0, 3]
    empty = old.keep(torch.zeros(3, dtype=torch.bool).numpy())
    assert carry(torch.zeros(0), empty, new).tolist() == [0] * 4 and carry(torch.ones(3), old, empty).shape == (0,)
    assert pattern_of(torch.zeros(3)) is None
