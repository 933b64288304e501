"""Fair timing: the candidates take turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Callable, List, Sequence

__all__ = ["median_milliseconds"]

ROUNDS = 30
ROUND_SECONDS = 0.005


def median_milliseconds(candidates: Sequence[Callable[[], object]]) -> List[float]:
    """The median time of one call of each candidate, measured in turns."""
    calls = [_calls_per_round(candidate) for candidate in candidates]
    rounds = [[_seconds(candidate, n) / n for candidate, n in zip(candidates, calls)] for _ in range(ROUNDS)]
    return [1000 * median(times) for times in zip(*rounds)]


def _calls_per_round(candidate: Callable[[], object]) -> int:
    _seconds(candidate, 3)  # the first calls build plans and fill caches
    return max(1, int(ROUND_SECONDS / (_seconds(candidate, 3) / 3)))


def _seconds(candidate: Callable[[], object], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        candidate()
    return perf_counter() - start
