"""SeparableMaxPool2d against nn.MaxPool2d."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn.pooling import SeparableMaxPool2d  # noqa: E402


def pair(least: int, most: int) -> st.SearchStrategy:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@given(pair(1, 5), pair(1, 4), pair(0, 2), pair(1, 20), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_equals_max_pool(kernel, stride, padding, size, dtype, with_nan):
    assume(all(p <= k // 2 for p, k in zip(padding, kernel)))
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel)))
    images = torch.randn(2, 3, *size, dtype=dtype)
    if with_nan:
        images[0, 0, size[0] // 2, size[1] // 2] = float("nan")
    expected = nn.MaxPool2d(kernel, stride, padding)(images)
    actual = SeparableMaxPool2d(kernel, stride, padding)(images)
    assert torch.equal(torch.isnan(actual), torch.isnan(expected))
    assert torch.equal(actual.nan_to_num(0.0), expected.nan_to_num(0.0))


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), ((2, 3), (1, 2), (0, 1))])
def test_usual_pools_take_the_separable_way(kernel, stride, padding, monkeypatch):
    pool, images = SeparableMaxPool2d(kernel, stride, padding), torch.randn(1, 2, 12, 14)
    expected = nn.MaxPool2d(kernel, stride, padding)(images)
    monkeypatch.setattr(nn.MaxPool2d, "forward", None)
    assert torch.equal(pool(images), expected)
    assert torch.equal(pool(images[0]), expected[0])


@pytest.mark.parametrize(
    "images, options",
    [
        (torch.randn(1, 8, 6, 6).to(memory_format=torch.channels_last), {}),
        (torch.randn(1, 2, 7, 7), {"ceil_mode": True}),
        (torch.randn(1, 2, 9, 9), {"dilation": 2}),
        (torch.randn(1, 2, 6, 6).transpose(2, 3), {}),
    ],
)
def test_other_pools_are_left_to_torch(images, options):
    expected = nn.MaxPool2d(3, 2, 1, **options)(images)
    actual = SeparableMaxPool2d(3, 2, 1, **options)(images)
    assert torch.equal(actual, expected) and actual.stride() == expected.stride()


def test_indices_and_gradients_are_left_to_torch():
    images = torch.randn(1, 2, 6, 6, requires_grad=True)
    values, indices = SeparableMaxPool2d(2, return_indices=True)(images)
    expected, expected_indices = nn.MaxPool2d(2, return_indices=True)(images)
    assert torch.equal(values, expected) and torch.equal(indices, expected_indices)
    (gradient,) = torch.autograd.grad(SeparableMaxPool2d(2)(images).sum(), images)
    assert gradient.sum() == expected.numel()


def test_a_pool_too_large_is_refused_as_torch_refuses_it():
    with pytest.raises(RuntimeError, match="Output size is too small"):
        SeparableMaxPool2d(5)(torch.randn(1, 2, 3, 3))


def test_fuse_takes_it():
    calls = []
    model = nn.Sequential(mpl_sparse.nn.SparseConv2d.from_dense(nn.Conv2d(3, 4, 3)), nn.MaxPool2d(2)).eval()
    model[1].register_forward_hook(lambda *_: calls.append(1))
    fused, images = mpl_sparse.fuse(model), torch.randn(1, 3, 9, 9)
    assert type(fused[1]) is SeparableMaxPool2d and type(model[1]) is nn.MaxPool2d
    assert torch.equal(fused(images), model(images)) and calls == [1, 1]
