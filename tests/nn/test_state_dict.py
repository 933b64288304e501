"""state_dict: round trips, dense into sparse and back, and bad ones, which change nothing."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear, pattern_of  # noqa: E402

KINDS = [
    (nn.Linear, DenseLinear, SparseLinear, (6, 5), (2, 6)),
    (nn.Conv2d, DenseConv2d, SparseConv2d, (2, 3, 2), (2, 2, 4, 4)),
]
kinds = pytest.mark.parametrize("plain, dense, sparse, arguments, shape", KINDS)


def pruned(kind, arguments, pct=0.5):
    layer = kind(*arguments)
    layer.random_prune_by_pct(pct)
    return layer


def snapshot(layer):
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_unchanged(layer, before):
    after = layer.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@kinds
def test_own_round_trip_adopts_the_pattern(plain, dense, sparse, arguments, shape):
    source, target = pruned(sparse, arguments), pruned(sparse, arguments, 0.2)
    assert list(source.state_dict()) == ["values", "bias", "row_ptr", "col_idx"]
    values = target.values
    target.load_state_dict(source.state_dict())
    assert target.values is values and target.pattern == source.pattern and pattern_of(values) is target.pattern
    assert_unchanged(target, source.state_dict())
    input = torch.randn(shape)
    assert torch.equal(target(input), source(input))
    source, target = pruned(dense, arguments), dense(*arguments)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.mask, source.mask) and torch.equal(target(input), source(input))


@kinds
def test_the_same_pattern_keeps_its_plans(plain, dense, sparse, arguments, shape):
    layer = pruned(sparse, arguments)
    pattern = layer.pattern
    layer.load_state_dict(copy.deepcopy(layer).state_dict())
    assert layer.pattern is pattern


@kinds
def test_assign(plain, dense, sparse, arguments, shape):
    source, target = pruned(sparse, arguments), sparse(*arguments)
    target.load_state_dict(source.double().state_dict(), assign=True)
    assert target.values.dtype == torch.float64 and pattern_of(target.values) is target.pattern
    assert target.pattern == source.pattern


@kinds
def test_plain_into_prunable(plain, dense, sparse, arguments, shape):
    source = plain(*arguments)
    masked, stored = pruned(dense, arguments), pruned(sparse, arguments)
    mask, pattern = masked.mask.clone(), stored.pattern
    masked.load_state_dict(source.state_dict())
    assert torch.equal(masked.mask, mask) and torch.equal(masked.weight, source.weight)
    stored.load_state_dict(source.state_dict())
    assert stored.pattern is pattern and torch.equal(stored.values, source.weight[stored.mask])
    assert torch.equal(stored.bias, source.bias)


@kinds
def test_masked_into_sparse_and_back(plain, dense, sparse, arguments, shape):
    masked, stored, input = pruned(dense, arguments), sparse(*arguments), torch.randn(shape)
    stored.load_state_dict(masked.state_dict())
    assert stored.pattern == masked.pattern
    torch.testing.assert_close(stored(input), masked(input))
    again = dense(*arguments)
    again.load_state_dict(stored.state_dict())
    assert torch.equal(again.mask, masked.mask) and torch.equal(again(input), masked(input))


@kinds
def test_nested_and_partial(plain, dense, sparse, arguments, shape):
    source, target = nn.Sequential(pruned(dense, arguments)), nn.Sequential(sparse(*arguments))
    target.load_state_dict(source.state_dict())
    assert target[0].pattern == source[0].pattern
    before = snapshot(target)
    result = target.load_state_dict({"0.bias": torch.ones(target[0].bias.shape)}, strict=False)
    assert sorted(result.missing_keys) == ["0.col_idx", "0.row_ptr", "0.values"] and not result.unexpected_keys
    assert torch.equal(target[0].values, before["0.values"]) and target[0].bias.eq(1).all()
    result = target.load_state_dict({"0.values": torch.ones(3), "0.more": torch.ones(3)}, strict=False)
    assert torch.equal(target[0].values, before["0.values"]) and result.unexpected_keys == ["0.more"]


def change(**tensors):
    return lambda state: {**state, **tensors}


BAD = [
    (change(values=torch.ones(3)), "values must have shape"),
    (change(bias=torch.ones(9)), "bias"),
    (lambda state: {**state, "col_idx": state["col_idx"] + 100}, "col_idx"),
    (lambda state: {**state, "col_idx": state["col_idx"].flip(0)}, "col_idx"),
    (lambda state: {**state, "row_ptr": state["row_ptr"][:-1]}, "row_ptr must have shape"),
    (lambda state: {**state, "row_ptr": state["row_ptr"].float()}, "row_ptr must hold integers"),
    (lambda state: {"weight": torch.ones(3), "bias": state["bias"]}, "weight must have shape"),
]


@kinds
@pytest.mark.parametrize("spoil, words", BAD)
def test_a_bad_state_dict_changes_nothing(plain, dense, sparse, arguments, shape, spoil, words):
    source, target = pruned(sparse, arguments), pruned(sparse, arguments)
    before, values = snapshot(target), target.values
    with pytest.raises(RuntimeError, match=words):
        target.load_state_dict(spoil(source.state_dict()))
    assert target.values is values
    assert_unchanged(target, before)


@kinds
@pytest.mark.parametrize("spoil, words", [BAD[0], *BAD[2:6]])
def test_a_bad_sparse_state_dict_changes_no_masked_layer(plain, dense, sparse, arguments, shape, spoil, words):
    source, target = pruned(sparse, arguments), pruned(dense, arguments)
    before = snapshot(target)
    with pytest.raises(RuntimeError, match=words):
        target.load_state_dict(spoil(source.state_dict()))
    assert_unchanged(target, before)


@kinds
@pytest.mark.parametrize("name", ["values", "row_ptr", "col_idx"])
def test_values_and_positions_are_loaded_together_or_not_at_all(plain, dense, sparse, arguments, shape, name):
    source, target = pruned(sparse, arguments), pruned(sparse, arguments)
    state, before = source.state_dict(), snapshot(target)
    del state[name]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
        target.load_state_dict(state)
    assert_unchanged(target, {**before, "bias": source.bias.detach()})


def test_a_bad_mask_changes_nothing():
    source, target = pruned(DenseLinear, (6, 5)), pruned(SparseLinear, (6, 5))
    before = snapshot(target)
    for mask in (torch.ones(5, 6), torch.ones(6, 5, dtype=torch.bool)):
        with pytest.raises(RuntimeError, match="mask must"):
            target.load_state_dict({**source.state_dict(), "mask": mask})
        assert_unchanged(target, before)
