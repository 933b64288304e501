"""Schedules against the formulas of their papers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.pruning import Cubic, Exponential, Iterative, OneShot  # noqa: E402


def due(schedule, steps=40):
    return [step for step in range(steps) if schedule.is_due(step)]


def test_when():
    assert due(OneShot()) == [0] and due(OneShot(7)) == [7]
    assert due(Iterative(3, every=5, begin=2)) == [2, 7, 12]
    assert due(Cubic(3, 12, every=4)) == due(Exponential(3, 12, every=4)) == [3, 7, 11, 12]
    assert due(Cubic(3, 11, every=4)) == [3, 7, 11]


def test_cubic_is_equation_1_in_sparsities():
    schedule = Cubic(10, 30, every=5)
    for step in range(10, 31):
        s_i, s_f = 0.25, 0.9
        sparsity = s_f + (s_i - s_f) * (1 - (step - 10) / (4 * 5)) ** 3
        assert schedule.density(step, 0.75, 0.1) == pytest.approx(1 - sparsity)


def test_exponential_and_iterative():
    schedule = Exponential(10, 20)
    assert schedule.density(15, 0.8, 0.2) == pytest.approx(0.4)
    schedule = Iterative(3, every=10, begin=5)
    assert [schedule.density(step, 1.0, 0.001) for step in (4, 5, 14, 15, 25)] == pytest.approx(
        [1, 0.1, 0.1, 0.01, 0.001]
    )
    assert OneShot(3).density(2, 1.0, 0.1) == 1.0 and OneShot(3).density(3, 1.0, 0.1) == 0.1


schedules = st.one_of(
    st.builds(OneShot, st.integers(0, 9)),
    st.builds(Iterative, st.integers(1, 5), st.integers(1, 5), st.integers(0, 5)),
    st.builds(
        lambda kind, begin, long, every: kind(begin, begin + long, every),
        st.sampled_from([Cubic, Exponential]),
        st.integers(0, 5),
        st.integers(1, 20),
        st.integers(1, 7),
    ),
)


@given(schedules, st.floats(0, 1), st.floats(0, 1))
def test_from_initial_to_final_and_never_up(schedule, one, other):
    final, initial = sorted((one, other))
    densities = [schedule.density(step, initial, final) for step in range(40)]
    assert all(later <= before + 1e-12 for before, later in zip(densities, densities[1:]))
    assert max(due(schedule)) == schedule.last
    assert set(densities[schedule.last :]) == {final}
    assert all(final <= density <= initial + 1e-12 for density in densities) or final == 0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: OneShot(-1), ValueError, "at must be at least 0, got -1"),
        (lambda: Iterative(0), ValueError, "rounds must be at least 1, got 0"),
        (lambda: Iterative(2, every=0.5), TypeError, "every must be an integer, got 0.5"),
        (lambda: Cubic(5, 5), ValueError, "end must be more than begin, got begin=5, end=5"),
        (lambda: Exponential(0, 5, every=0), ValueError, "every must be at least 1, got 0"),
        (lambda: Cubic(-1, 5), ValueError, "begin must be at least 0, got -1"),
    ],
)
def test_bad_settings(make, error, words):
    with pytest.raises(error, match=words):
        make()
