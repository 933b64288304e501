"""A masked weight: what torch.where gives, to the bit, and its gradients."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from mpl_sparse.autograd import masked  # noqa: E402

ODD = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 1.0, -3.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_equals_where(dtype, requires_grad):
    weight = ODD.repeat(2).view(2, 8).to(dtype).requires_grad_(requires_grad)
    mask = torch.arange(16).view(2, 8) < 8
    expected, actual = torch.where(mask, weight, 0), masked(weight, mask)
    assert actual.dtype is dtype and actual.requires_grad is requires_grad
    as_bytes = [torch.view_as_real(each) if each.is_complex() else each for each in (expected, actual)]
    assert torch.equal(*(each.detach().contiguous().view(torch.uint8) for each in as_bytes))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (), (5,), (4, 2, 3, 3)])
def test_shapes_and_strides(shape):
    weight, mask = torch.randn(shape), torch.rand(shape) < 0.5
    assert torch.equal(masked(weight, mask), torch.where(mask, weight, 0))
    if len(shape) == 4:
        last = weight.to(memory_format=torch.channels_last)
        for each in (mask, mask.to(memory_format=torch.channels_last)):
            assert torch.equal(masked(last, each), torch.where(mask, weight, 0))
        assert torch.equal(masked(weight[::2, :, 1:], mask[::2, :, 1:]), torch.where(mask, weight, 0)[::2, :, 1:])


def test_gradients():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4) < 0.5
    assert gradcheck(lambda each: masked(each, mask).sin(), weight, check_forward_ad=True)
    assert gradgradcheck(lambda each: masked(each, mask).sin(), weight)
    (gradient,) = torch.autograd.grad(masked(weight, mask).sum(), weight)
    assert torch.equal(gradient, mask.double())
    with torch.no_grad():
        assert not masked(weight, mask).requires_grad


def test_it_never_shares_memory_with_the_weight():
    weight = nn.Parameter(torch.ones(2, 2))
    with torch.no_grad():
        masked(weight, torch.ones(2, 2, dtype=torch.bool)).zero_()
    assert weight.eq(1).all()


def test_a_mask_that_changes_before_backward_is_noticed():
    weight, mask = torch.randn(3, 4, requires_grad=True), torch.ones(3, 4, dtype=torch.bool)
    loss = masked(weight, mask).sum()
    mask.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
