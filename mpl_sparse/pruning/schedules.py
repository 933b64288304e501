"""When to prune, and how far: from a step of training to a density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .granularity import check_at_least

__all__ = ["Cubic", "Exponential", "Iterative", "OneShot", "Schedule"]


class Schedule(ABC):
    """Steps count from 0. A layer's or pool's density goes from `initial`, what it has at first, to `final`."""

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether to prune at this step."""

    @abstractmethod
    def density(self, step: int, initial: float, final: float) -> float:
        """The density after this step; exactly `final` from the last step on."""

    @property
    @abstractmethod
    def last(self) -> int:
        """The last step at which it is due."""


@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once, at step `at`.

    Raises:
        TypeError, ValueError: `at` is no integer >= 0.
    """

    at: int = 0

    def __post_init__(self) -> None:
        check_at_least("at", self.at, 0)

    def is_due(self, step: int) -> bool:
        """See `Schedule.is_due`."""
        return step == self.at

    def density(self, step: int, initial: float, final: float) -> float:
        """See `Schedule.density`."""
        return initial if step < self.at else final

    @property
    def last(self) -> int:
        """See `Schedule.last`."""
        return self.at


@dataclass(frozen=True)
class Iterative(Schedule):
    """`rounds` times, at `begin` and then each `every` steps, and each time the same share of what remains: Han et al.
    (2015, arXiv:1506.02626), and the lottery tickets of Frankle and Carbin (2019, arXiv:1803.03635).

    Raises:
        TypeError, ValueError: a number is no integer, `rounds` or `every` is less than 1, or `begin` than 0.
    """

    rounds: int
    every: int = 1
    begin: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("every", 1), ("begin", 0)):
            check_at_least(name, getattr(self, name), least)

    def is_due(self, step: int) -> bool:
        """See `Schedule.is_due`."""
        return self.begin <= step <= self.last and (step - self.begin) % self.every == 0

    def density(self, step: int, initial: float, final: float) -> float:
        """See `Schedule.density`."""
        done = 0 if step < self.begin else min((step - self.begin) // self.every + 1, self.rounds)
        return shrunk(initial, final, done / self.rounds)

    @property
    def last(self) -> int:
        """See `Schedule.last`."""
        return self.begin + (self.rounds - 1) * self.every


@dataclass(frozen=True)
class _Ramp(Schedule):
    begin: int
    end: int
    every: int = 1

    def __post_init__(self) -> None:
        check_at_least("begin", self.begin, 0)
        check_at_least("every", self.every, 1)
        if check_at_least("end", self.end, 0) <= self.begin:
            raise ValueError(f"end must be more than begin, got begin={self.begin}, end={self.end}")

    def is_due(self, step: int) -> bool:
        """See `Schedule.is_due`. Also at `end`, whatever `every` is."""
        return step == self.end or self.begin <= step < self.end and (step - self.begin) % self.every == 0

    @property
    def last(self) -> int:
        """See `Schedule.last`."""
        return self.end

    def _progress(self, step: int) -> float:
        return min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)


@dataclass(frozen=True)
class Cubic(_Ramp):
    """Each `every` steps from `begin` to `end`, fast at first: Zhu and Gupta, "To prune, or not to prune" (2017,
    arXiv:1710.01878), equation 1:

        density = final + (initial - final) * (1 - (step - begin) / (end - begin))^3

    Raises:
        TypeError, ValueError: a number is no integer, `begin` is negative, `every` less than 1, `end` not after it.
    """

    def density(self, step: int, initial: float, final: float) -> float:
        """See `Schedule.density`."""
        left = 1 - self._progress(step)
        return final + (initial - final) * left**3


@dataclass(frozen=True)
class Exponential(_Ramp):
    """Each `every` steps from `begin` to `end`, the same share of what remains:

        density = initial * (final / initial)^((step - begin) / (end - begin))

    as SynFlow does in its rounds (Tanaka et al., 2020, arXiv:2006.05467). Towards a final density of 0 see `shrunk`.

    Raises:
        TypeError, ValueError: as `Cubic`.
    """

    def density(self, step: int, initial: float, final: float) -> float:
        """See `Schedule.density`."""
        return shrunk(initial, final, self._progress(step))


def shrunk(initial: float, final: float, progress: float) -> float:
    """initial * (final / initial)^progress, exactly `final` at 1; if `final` is 0, as if it were a thousandth of
    `initial`, until 1.
    """
    if progress >= 1 or initial <= 0:
        return final
    return initial * ((final or initial / 1000) / initial) ** progress
