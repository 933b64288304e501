"""The recurrence of an LSTM: gradients by finite differences, and which of them are computed."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mpl_sparse.autograd import LSTMFunction, lstm  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

BATCH_SIZES = [[3, 3, 3], [3, 2, 1, 1], [1], [0, 0]]


def operands(batch_sizes, sparse, bias=True, size=3):
    """The operands of `lstm` in its order."""
    tensors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((sum(batch_sizes), 4 * size), (batch_sizes[0], size), (batch_sizes[0], size), (4 * size, size))
    ]
    pattern = None
    if sparse:
        pattern = Pattern.from_mask(torch.rand(4 * size, size) < 0.5)
        tensors[3] = torch.randn(pattern.nnz, dtype=torch.float64, requires_grad=True)
    return [*tensors, torch.randn(4 * size, dtype=torch.float64, requires_grad=True) if bias else None, pattern]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_sizes", BATCH_SIZES, ids=str)
def test_gradients(batch_sizes, sparse, reverse):
    for bias in (True, False):
        own = operands(batch_sizes, sparse, bias)
        assert torch.autograd.gradcheck(LSTMFunction.apply, (*own, batch_sizes, reverse))


@pytest.mark.parametrize("sparse", [False, True])
def test_the_result_is_the_same_without_gradients(sparse):
    own = operands([3, 2, 2], sparse)
    with torch.no_grad():
        results = lstm(*own, [3, 2, 2], False)
    assert not any(each.requires_grad for each in results)
    for actual, expected in zip(results, lstm(*own, [3, 2, 2], False)):
        assert torch.equal(actual, expected) and expected.requires_grad


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("wanted", range(5))
def test_only_the_gradients_that_are_asked_for(wanted, sparse):
    own = operands([3, 2, 2], sparse)
    leaves = own[:5]
    sum(each.sum() for each in lstm(*own, [3, 2, 2], True)).backward()
    expected = leaves[wanted].grad
    for index, leaf in enumerate(leaves):
        leaf.grad = None
        leaf.requires_grad_(index == wanted)
    sum(each.sum() for each in lstm(*own, [3, 2, 2], True)).backward()
    assert torch.equal(leaves[wanted].grad, expected)
    assert all(leaf.grad is None for index, leaf in enumerate(leaves) if index != wanted)


def test_the_operands_stay_as_they_are():
    own = operands([3, 2, 2], True)
    before = [each.clone() for each in own[:5]]
    sum(each.sum() for each in lstm(*own, [3, 2, 2], False)).backward()
    with torch.no_grad():
        lstm(*own, [3, 2, 2], False)
    assert all(torch.equal(a, b) for a, b in zip(own, before))


def test_forward_mode_is_refused():
    own = operands([2, 2], True)
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        own[0] = torch.autograd.forward_ad.make_dual(own[0].detach(), torch.ones_like(own[0]))
        with pytest.raises(RuntimeError, match="jvp"):
            lstm(*own, [2, 2], False)
