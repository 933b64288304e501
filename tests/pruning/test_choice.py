"""Which weights go, against plain Python lists."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.pruning.choice import below, lowest_units, lowest_weights, lowest_within  # noqa: E402

numbers = st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf, math.nan])
scored = st.lists(st.tuples(numbers, st.integers(0, 4)), max_size=14)


def tensors(pairs):
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64)
    return scores, torch.tensor([unit for _, unit in pairs], dtype=torch.int64)


def key(score):
    return (1, 0) if math.isnan(score) else (0, score)


def units_of(pairs):
    """(mean, unit, places), the lowest first."""
    found = {}
    for place, (_, unit) in enumerate(pairs):
        found.setdefault(unit, []).append(place)
    means = [(sum(pairs[p][0] for p in places) / len(places), unit, places) for unit, places in found.items()]
    return sorted(means, key=lambda each: (key(each[0]), each[1]))


@given(scored, st.integers(0, 15))
def test_lowest_units(pairs, count):
    gone, left = set(), count
    for _, _, places in units_of(pairs):
        if len(places) > left:
            break
        gone.update(places)
        left -= len(places)
    assert set(lowest_units(*tensors(pairs), count).nonzero().flatten().tolist()) == gone


@given(scored, st.data())
def test_lowest_weights_are_units_of_one(pairs, data):
    count = data.draw(st.integers(0, len(pairs)))
    scores, _ = tensors(pairs)
    gone = lowest_weights(scores, count)
    assert int(gone.sum()) == count
    assert torch.equal(gone, lowest_units(scores, torch.arange(len(pairs)), count))


@given(scored, st.integers(0, 6))
def test_lowest_within(pairs, stay):
    gone = set()
    for unit in {unit for _, unit in pairs}:
        places = [place for place, (_, own) in enumerate(pairs) if own == unit]
        places.sort(key=lambda place: (key(pairs[place][0]), place))
        gone.update(places[: max(0, len(places) - stay)])
    assert set(lowest_within(*tensors(pairs), stay).nonzero().flatten().tolist()) == gone


@given(scored, numbers)
def test_below(pairs, threshold):
    gone = {place for mean, _, places in units_of(pairs) for place in places if mean < threshold}
    assert set(below(*tensors(pairs), threshold).nonzero().flatten().tolist()) == gone
