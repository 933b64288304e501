"""Which of a layer's free positions an update grows.

Free is every position whose weight does not stay: those pruned before, and those that this very update drops (so the
paper of RigL has it: grown are the largest among "i not in theta \\ I_drop").
"""

from __future__ import annotations

import abc
from typing import ClassVar, Iterable, Tuple

import torch
from torch import Generator, Tensor

__all__ = ["AtRandom", "GrowRule", "LargestGradient"]

Blocks = Iterable[Tuple[range, Tensor]]


class GrowRule(abc.ABC):
    """How the positions to grow are chosen. `needs_gradients` says whether :meth:`choose` reads the `blocks`."""

    needs_gradients: ClassVar[bool]

    @abc.abstractmethod
    def choose(self, kept: Tensor, numel: int, count: int, blocks: Blocks, generator: Generator) -> Tensor:
        """`count` positions of the flat weight, int64, increasing, none of them in `kept`.

        Args:
            kept: int64, increasing: the positions that stay.
            numel: how many positions there are; `count` is at most numel - len(kept).
            blocks: (rows, gradient (rows, cols)), in order, as `GrowthGradients.blocks` gives them.
            generator: what random choices are made with.
        """


class LargestGradient(GrowRule):
    """The free positions with the largest |gradient|; of equal ones the first; NaN is the smallest.

    RigL's rule. Needs memory for `count` positions and one block.
    """

    needs_gradients: ClassVar[bool] = True

    def choose(self, kept: Tensor, numel: int, count: int, blocks: Blocks, generator: Generator) -> Tensor:
        """See :meth:`GrowRule.choose`."""
        best, where = kept.new_empty(0, dtype=torch.float32), kept.new_empty(0)
        for rows, block in blocks:
            start = rows.start * block.shape[1]
            size = block.abs().nan_to_num_(nan=0.0, posinf=torch.inf).reshape(-1).cpu()
            taken = kept[torch.searchsorted(kept, start) : torch.searchsorted(kept, start + size.numel())]
            size[taken - start] = -1.0
            # ties with what is held already lose: they stand further back
            able = size > best.min() if count and best.numel() == count else size >= 0
            at = able.nonzero().squeeze(1)
            best, where = torch.cat((best.to(size.dtype), size[at])), torch.cat((where, at + start))
            if best.numel() > count:
                held = ~first_lowest_from_the_end(best, best.numel() - count)
                best, where = best[held], where[held]
        return where


class AtRandom(GrowRule):
    """Free positions, each equally likely: SET's rule (Mocanu et al., 2018, arXiv:1707.04780).

    Needs memory for the positions that stay and grow, not for the free ones.
    """

    needs_gradients: ClassVar[bool] = False

    def choose(self, kept: Tensor, numel: int, count: int, blocks: Blocks, generator: Generator) -> Tensor:
        """See :meth:`GrowRule.choose`."""
        ranks = distinct(numel - kept.numel(), count, generator)  # the first free position, the fifth, ...
        before = kept - torch.arange(
            kept.numel(), device="cpu"
        )  # of each position that stays: how many free ones stand before it
        return ranks + torch.searchsorted(before, ranks, right=True)


def distinct(population: int, count: int, generator: Generator) -> Tensor:
    """`count` different numbers in [0, population), int64, increasing; every choice is equally likely."""
    if 2 * count > population:
        return torch.randperm(population, generator=generator, device="cpu")[:count].sort().values
    drawn = torch.empty(0, dtype=torch.int64, device="cpu")
    while drawn.numel() < count:  # the first so many different ones of a sequence of draws
        more = torch.randint(population, (count + count // 2 + 8,), generator=generator, device="cpu")
        both = torch.cat((drawn, more))
        values, order = both.sort(stable=True)
        first = torch.ones_like(values, dtype=torch.bool)
        first[1:] = values[1:] != values[:-1]
        drawn = both[order[first].sort().values]
    return drawn[:count].sort().values


def first_lowest_from_the_end(scores: Tensor, count: int) -> Tensor:
    """bool, True at the `count` lowest scores; of equal ones the last."""
    last = scores.kthvalue(count).values
    lowest = scores < last
    equal = (scores == last).nonzero().squeeze(1)
    lowest[equal[equal.numel() - (count - int(lowest.sum())) :]] = True
    return lowest
