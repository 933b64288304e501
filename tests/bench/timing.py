"""Times candidates in turns, and compares them by the ratio of each round.

A machine's speed drifts. Candidates that take turns within a short round see the same speed, so what is compared is the
median over rounds of the ratio within a round, never one candidate's median with another's.
"""

from __future__ import annotations

import random
from statistics import median
from time import perf_counter
from typing import Callable, Dict, Hashable, List, Mapping, NamedTuple, Sequence, TypeVar

# The seconds that so many calls take.
Timer = Callable[[int], float]
Key = TypeVar("Key", bound=Hashable)

WARM_UP_CALLS = 16
WARM_UP_SECONDS = 2.0  # enough, whatever is left to try


class Ratio(NamedTuple):
    """The median of a ratio over rounds, and its quartiles."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


def timer(call: Callable[[], object], clock: Callable[[], float] = perf_counter) -> Timer:
    """A Timer of `call`."""

    def seconds(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            call()
        return clock() - start

    return seconds


def take_turns(timers: Mapping[Key, Timer], rounds: int, turn_seconds: float, seed: int = 0) -> Dict[Key, List[float]]:
    """Seconds a call for each candidate in each round. In a round every candidate has one turn of about `turn_seconds`,
    in an order shuffled anew, so that none always follows the same other. Calls before that warm up, as libraries try
    their plans in the first ones, and the last of them tells how many calls fill a turn.
    """
    calls = {}
    for key, seconds in timers.items():
        warm_up: List[float] = []
        while len(warm_up) < WARM_UP_CALLS and sum(warm_up) < WARM_UP_SECONDS:
            warm_up.append(seconds(1))
        calls[key] = max(1, int(turn_seconds / max(warm_up[-1], 1e-9)))
    times: Dict[Key, List[float]] = {key: [] for key in timers}
    order, shuffle = list(timers), random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for key in order:
            times[key].append(timers[key](calls[key]) / calls[key])
    return times


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two candidates, from their times in the same rounds."""
    ratios = sorted(above / below for above, below in zip(numerators, denominators))
    return Ratio(median(ratios), _quantile(ratios, 0.25), _quantile(ratios, 0.75))


def fastest(times: Mapping[Key, Sequence[float]]) -> Key:
    """The candidate with the lowest median."""
    return min(times, key=lambda key: median(times[key]))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
