"""What goes, what comes and how much of it, against plain sorting of all positions."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.pruning.dynamic import (  # noqa: E402
    AtRandom,
    LargestGradient,
    constant_fraction,
    cosine_fraction,
    smallest_by_sign,
    smallest_magnitude,
)

FEW = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, math.inf, math.nan])  # many ties


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lowest(scores, count):
    """The `count` lowest by position, NaN the largest."""
    order = sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), scores[i], i))
    return set(order[:count])


@given(weights=st.lists(FEW, max_size=20), fraction=st.floats(0, 1))
def test_smallest_magnitude(weights, fraction):
    dropped = smallest_magnitude(torch.tensor(weights), fraction)
    expected = lowest([abs(weight) for weight in weights], int(fraction * len(weights)))
    # as large as inf, a NaN stands with it
    finite = {i for i in expected if math.isfinite(weights[i])}
    got = set(dropped.nonzero().flatten().tolist())
    assert len(got) == len(expected) and {i for i in got if math.isfinite(weights[i])} == finite


@given(weights=st.lists(st.floats(-3, 3), max_size=20), fraction=st.floats(0, 1))
def test_smallest_by_sign(weights, fraction):
    weights = torch.tensor(weights, dtype=torch.float64).tolist()
    negative = [i for i, weight in enumerate(weights) if weight < 0]
    others = [i for i in range(len(weights)) if i not in negative]
    expected = set()
    for side in (negative, others):
        order = sorted(side, key=lambda i: (abs(weights[i]), i))
        expected |= set(order[: int(fraction * len(side))])
    dropped = smallest_by_sign(torch.tensor(weights, dtype=torch.float64), fraction)
    assert set(dropped.nonzero().flatten().tolist()) == expected


@st.composite
def growth(draw):
    """A gradient in blocks, the positions that stay, and how many to grow."""
    rows, cols = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    entries = st.lists(FEW, min_size=rows * cols, max_size=rows * cols)
    gradient = torch.tensor(draw(entries), dtype=draw(st.sampled_from([torch.float32, torch.float64])))
    kept = sorted(draw(st.sets(st.integers(0, rows * cols - 1), max_size=rows * cols - 1)))
    count = draw(st.integers(1, rows * cols - len(kept)))
    step = draw(st.integers(1, rows))
    blocks = [
        (range(start, min(start + step, rows)), gradient.view(rows, cols)[start : start + step])
        for start in range(0, rows, step)
    ]
    return gradient, torch.tensor(kept, dtype=torch.int64), count, blocks


@given(growth())
def test_largest_gradient(drawn):
    gradient, kept, count, blocks = drawn
    sizes = [0.0 if math.isnan(each) else abs(each) for each in gradient.tolist()]
    free = [i for i in range(len(sizes)) if i not in set(kept.tolist())]
    expected = sorted(sorted(free, key=lambda i: (-sizes[i], i))[:count])
    before = gradient.clone()
    found = LargestGradient().choose(kept, len(sizes), count, iter(blocks), generator())
    assert found.tolist() == expected and found.dtype == torch.int64
    torch.testing.assert_close(gradient, before, rtol=0, atol=0, equal_nan=True)


@given(growth(), st.integers(0, 2**31))
def test_at_random(drawn, seed):
    gradient, kept, count, _ = drawn
    found, again = (AtRandom().choose(kept, gradient.numel(), count, (), generator(seed)) for _ in range(2))
    assert found.dtype == torch.int64 and torch.equal(found, again)
    assert found.numel() == count and bool((found.diff() > 0).all()) and found[0] >= 0 and found[-1] < gradient.numel()
    assert not set(found.tolist()) & set(kept.tolist())


@pytest.mark.parametrize("count", [1, 3, 5, 6])
def test_at_random_every_choice_is_equally_likely(count):
    kept = torch.tensor([0, 4, 5, 9])  # six are free; of `count` = 1 and 3 few are drawn, of 5 and 6 all are shuffled
    draws, source = 6000, generator()
    seen = torch.zeros(10)
    for _ in range(draws):
        seen[AtRandom().choose(kept, 10, count, (), source)] += 1
    share = count / 6
    expected = torch.full((10,), draws * share)
    expected[kept] = 0
    assert (seen - expected).abs().max() <= 5 * math.sqrt(draws * share * (1 - share))  # five standard deviations


def test_at_random_needs_no_memory_for_the_free_positions():
    found = AtRandom().choose(torch.tensor([1, 2]), 2**60, 1000, (), generator())
    assert found.unique().numel() == 1000


@given(alpha=st.floats(0, 1), until=st.integers(1, 1000), step=st.integers(1, 2000))
def test_cosine(alpha, until, step):
    expected = alpha / 2 * (1 + math.cos(step * math.pi / until)) if step < until else 0
    assert cosine_fraction(alpha, until)(step) == pytest.approx(expected, abs=1e-15)


def test_fractions_refuse():
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\]"):
            constant_fraction(wrong)
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
            cosine_fraction(wrong, 3)
    with pytest.raises(TypeError, match="fraction must be a real number, got '0.3'"):
        constant_fraction("0.3")
    with pytest.raises(TypeError, match="until must be an integer, got 2.5"):
        cosine_fraction(0.3, 2.5)
    with pytest.raises(ValueError, match="until must be at least 1, got 0"):
        cosine_fraction(0.3, 0)
