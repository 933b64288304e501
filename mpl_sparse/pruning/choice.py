"""Which of the scored weights go: the lowest ones, unit by unit."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from ..nn import lowest

__all__ = ["below", "lowest_units", "lowest_within", "places_within"]


def lowest_units(scores: Tensor, units: Tensor, count: int) -> Tensor:
    """Where the units with the lowest mean scores are, as many as have at most `count` weights together: the first one
    that would pass it stays, and so do all after it. Of equal units the first go; a NaN mean is the largest.

    Shape:
        scores (n,), units (n,) int64, the unit of each; result (n,), bool.
    """
    means, sizes, of_unit = _unit_means(scores, units)
    order = torch.sort(means, stable=True).indices  # NaN last
    gone = torch.zeros(means.numel(), dtype=torch.bool)
    gone[order] = sizes[order].cumsum(0) <= count
    return gone[of_unit]


def lowest_weights(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest scores are: bool, as `scores`. Of equal ones the first go; NaN is the largest."""
    return lowest(scores, count) if count else torch.zeros(scores.shape, dtype=torch.bool)


def lowest_within(scores: Tensor, groups: Tensor, stay: int) -> Tensor:
    """Where all but the `stay` highest scores of each group are. Of equal ones the first go; NaN is the largest.

    Shape:
        scores (n,), groups (n,) int64, the group of each; result (n,), bool.
    """
    return places_within(scores, groups) >= stay


def places_within(scores: Tensor, groups: Tensor) -> Tensor:
    """How many scores of its group are higher than each, or equal and later; NaN is the largest.

    Shape:
        scores (n,), groups (n,) int64, the group of each; result (n,), int64.
    """
    _, of_group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    by_score = torch.sort(scores, stable=True).indices
    order = by_score[torch.sort(of_group[by_score], stable=True).indices]  # by group, in each by score
    ends = torch.cumsum(sizes, 0)
    places = torch.empty_like(order)
    places[order] = ends[of_group[order]] - 1 - torch.arange(order.numel())
    return places


def below(scores: Tensor, units: Tensor, threshold: float) -> Tensor:
    """Where the units with a mean score below `threshold` are; a NaN mean is not below. Shapes as in `lowest_units`."""
    means, _, of_unit = _unit_means(scores, units)
    return (means < threshold)[of_unit]


def _unit_means(scores: Tensor, units: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Mean score and number of weights of each unit that has some, in order of its number; the unit of each weight."""
    _, of_unit, sizes = torch.unique(units, return_inverse=True, return_counts=True)
    sums = torch.zeros(sizes.numel(), dtype=torch.float64).index_add_(0, of_unit, scores.double())
    return sums / sizes, sizes, of_unit
