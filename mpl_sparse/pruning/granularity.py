"""What goes as one: single weights, kernels, filters, blocks; and the N:M pattern."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Sequence, Union

import torch
from torch import Tensor

__all__ = ["NM", "Block", "Filter", "Granularity", "Kernel", "Weight", "find_granularity"]


class Granularity(ABC):
    """Divides the weights of a layer into units, each of which goes or stays as one.

    A unit is worth the mean of the scores of its remaining weights: what is lost for each weight that is saved.
    """

    @abstractmethod
    def units(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """The number of the unit that each remaining weight belongs to.

        Args:
            shape: of the dense weight.
            positions: int64 (num_weight,), where the remaining weights stand in the flattened weight.

        Returns:
            int64 (num_weight,); numbers may be left out.
        """


@dataclass(frozen=True)
class Weight(Granularity):
    """Each weight alone: unstructured pruning. By name: "weight"."""

    def units(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """See `Granularity.units`."""
        return positions


@dataclass(frozen=True)
class Kernel(Granularity):
    """The kernel from one input channel to one output channel of a convolution; a row of a linear layer. "kernel"."""

    def units(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """See `Granularity.units`."""
        return _divided(positions, shape[-1] if len(shape) == 2 else _numel(shape[2:]))


@dataclass(frozen=True)
class Filter(Granularity):
    """All weights of one output: a filter of a convolution, a row of a linear layer. "filter" or "row". The bias of the
    output stays, and so does its place: the layer keeps its sizes.

    Li et al., "Pruning filters for efficient convnets" (2016, arXiv:1608.08710), with magnitude.
    """

    def units(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """See `Granularity.units`."""
        return _divided(positions, _numel(shape[1:]))


@dataclass(frozen=True)
class Block(Granularity):
    """Blocks of `rows` x `cols` of the weight seen as a matrix: its first dimension by all the others. Where the matrix
    is no multiple of a block, the last blocks are smaller.

    Raises:
        TypeError: a size is no integer.
        ValueError: it is less than 1.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            check_at_least(name, getattr(self, name), 1)

    def units(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """See `Granularity.units`."""
        width = _numel(shape[1:])
        rows, cols = _divided(positions, width), positions % max(width, 1)
        return _divided(rows, self.rows) * -(-width // self.cols) + _divided(cols, self.cols)


@dataclass(frozen=True)
class NM:
    """Of each `m` weights next to each other along the input dimension at most `n` stay: those with the highest scores.

    The input dimension is the second one: the columns of a linear layer, the input channels of a convolution at one
    place of its kernel. Where it is no multiple of `m`, of the last, smaller group also at most `n` stay.

    Zhou et al., "Learning N:M fine-grained structured sparse neural networks" (2021, arXiv:2102.04010). It decides how
    many weights go: `prune` takes it without a density.

    Raises:
        TypeError: a number is no integer.
        ValueError: not 0 <= n <= m, or m < 1.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        check_at_least("m", self.m, 1)
        check_at_least("n", self.n, 0)
        if self.n > self.m:
            raise ValueError(f"n must be at most m, got n={self.n}, m={self.m}")

    def groups(self, shape: Sequence[int], positions: Tensor) -> Tensor:
        """int64 (num_weight,): the number of each remaining weight's group. Arguments as in `Granularity.units`."""
        inner = max(_numel(shape[2:]), 1)
        inputs = shape[1]
        output = _divided(positions, inner * inputs)
        input = _divided(positions, inner) % max(inputs, 1)
        return (output * -(-inputs // self.m) + _divided(input, self.m)) * inner + positions % inner


_NAMES = {"weight": Weight(), "kernel": Kernel(), "filter": Filter(), "row": Filter()}


def find_granularity(granularity: Any) -> Union[Granularity, NM]:
    """The granularity of that name, or itself; TypeError or ValueError if there is none."""
    if isinstance(granularity, (Granularity, NM)):
        return granularity
    if not isinstance(granularity, str):
        raise TypeError(f"granularity must be a name, Block(rows, cols) or NM(n, m), got {granularity!r}")
    if granularity not in _NAMES:
        raise ValueError(f"granularity must be one of {sorted(_NAMES)}, Block or NM, got {granularity!r}")
    return _NAMES[granularity]


def check_at_least(name: str, value: Any, least: int) -> int:
    """`value` as an int >= `least`; TypeError or ValueError naming it otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def _numel(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _divided(numbers: Tensor, by: int) -> Tensor:
    return torch.div(numbers, max(by, 1), rounding_mode="floor")
