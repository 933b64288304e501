"""Which of a layer's remaining weights an update drops.

A drop rule is a function of the remaining weights (n,) and of the share to drop: bool (n,), True for those that go.
Of equal weights the first ones go; a NaN counts as the largest.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

__all__ = ["DropRule", "smallest_by_sign", "smallest_magnitude"]

DropRule = Callable[[Tensor, float], Tensor]


def smallest_magnitude(weights: Tensor, fraction: float) -> Tensor:
    """The int(fraction * n) smallest |w|: what RigL drops (arXiv:1911.11134), and what it calls SET's rule."""
    return first_lowest(weights.abs(), int(fraction * weights.numel()))


def smallest_by_sign(weights: Tensor, fraction: float) -> Tensor:
    """The share `fraction` of the smallest positive weights, and that of the largest negative ones, each rounded down:
    the letter of SET (Mocanu et al., 2018, arXiv:1707.04780). Zeros, which the paper does not name, go as positive."""
    dropped = torch.zeros(weights.shape, dtype=torch.bool, device=weights.device)
    negative = weights < 0
    for side in (~negative, negative):
        of_side = weights[side].abs()
        dropped[side] = first_lowest(of_side, int(fraction * of_side.numel()))
    return dropped


def first_lowest(scores: Tensor, count: int) -> Tensor:
    """bool, True at the `count` lowest scores; of equal ones the first; NaN is the largest."""
    if not count:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    scores = torch.where(scores.isnan(), torch.inf, scores)
    last = scores.kthvalue(count).values  # by selection: sorting millions of weights would take seconds
    lowest = scores < last
    equal = (scores == last).nonzero().squeeze(1)
    lowest[equal[: count - int(lowest.sum())]] = True
    return lowest
