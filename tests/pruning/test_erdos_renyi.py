"""Erdos-Renyi densities against the papers' formulas and the exact total."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.pruning.erdos_renyi import erdos_renyi_counts  # noqa: E402

FORMULA = {
    "er": lambda shape: (shape[0] + shape[1]) / (shape[0] * shape[1]),
    "erk": lambda shape: sum(shape) / math.prod(shape),
}
sizes = st.integers(1, 9)
shapes = st.lists(st.one_of(st.tuples(sizes, sizes), st.tuples(sizes, sizes, sizes, sizes)), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", FORMULA)
@given(shapes, st.data())
def test_counts(kind, shapes, data):
    named = {str(place): shape for place, shape in enumerate(shapes)}
    most = {name: data.draw(st.integers(0, math.prod(shape))) for name, shape in named.items()}
    total = data.draw(st.integers(0, sum(most.values())))
    counts = erdos_renyi_counts(named, most, total, kind)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= most[name] for name in named)
    # one factor for all: below it a layer has density factor * formula, a full one has no more than that
    weight = {name: FORMULA[kind](shape) * math.prod(shape) for name, shape in named.items()}
    wanted = {name: min(most[name], factor_for(weight, most, total) * weight[name]) for name in named}
    assert all(abs(counts[name] - wanted[name]) < 1 + 1e-6 for name in named)


def factor_for(weight, most, total):
    """By bisection: the factor at which the capped counts add up."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        reached = sum(min(most[name], middle * weight[name]) for name in weight) >= total
        low, high = (low, middle) if reached else (middle, high)
    return high


def test_a_network_of_the_paper():
    """LeNet-300-100's layers, no cap: each density is epsilon * (in + out) / (in * out), as in Mocanu et al."""
    shapes = {"a": (300, 784), "b": (100, 300), "c": (10, 100)}
    most = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = erdos_renyi_counts(shapes, most, 10_000, "er")
    epsilon = 10_000 / (1084 + 400 + 110)
    assert [counts[name] for name in "abc"] == [6801, 2509, 690]
    assert all(abs(counts[n] - epsilon * sum(shapes[n])) < 1 for n in shapes)


def test_a_layer_that_would_pass_one_is_dense():
    shapes = {"first": (4, 3, 3, 3), "second": (64, 64, 3, 3), "last": (10, 64)}
    most = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = erdos_renyi_counts(shapes, most, 20_000, "erk")
    assert counts["first"] == 108 and counts["last"] == 640
    assert counts["second"] == 20_000 - 108 - 640
