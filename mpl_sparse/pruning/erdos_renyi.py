"""Densities of layers from their sizes: Erdos-Renyi and its form for kernels."""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Mapping, Sequence

import torch

__all__ = ["KINDS", "erdos_renyi_counts"]


def erdos_renyi(shape: Sequence[int]) -> float:
    """(inputs + outputs) / (inputs * outputs): Mocanu et al. (SET, 2018, arXiv:1707.04780), equation 3."""
    return (shape[0] + shape[1]) / (shape[0] * shape[1])


def erdos_renyi_kernel(shape: Sequence[int]) -> float:
    """The sum of all dimensions by their product: Evci et al. (RigL, 2020, arXiv:1911.11134), section 3, ERK."""
    return sum(shape) / math.prod(shape)


KINDS: Dict[str, Callable[[Sequence[int]], float]] = {"er": erdos_renyi, "erk": erdos_renyi_kernel}


def erdos_renyi_counts(
    shapes: Mapping[str, Sequence[int]], most: Mapping[str, int], total: int, kind: str
) -> Dict[str, int]:
    """How many weights each layer keeps: `total` together, each layer's density in proportion to `KINDS[kind]` of its
    shape, but at most `most`.

    A layer that would have more than it can gets all it can, and the others share what is left, until none would have
    more. Counts are rounded so that they add up to `total` exactly, the largest fractions up. For a convolution the
    inputs are those of one group.
    """
    counts = {name: 0 for name in shapes}
    names = [name for name in shapes if most[name]]
    left = min(total, sum(most.values()))
    wanted: Dict[str, float] = {}
    while names:
        weight = {name: KINDS[kind](shapes[name]) * torch.Size(shapes[name]).numel() for name in names}
        factor = left / sum(weight.values())
        full = [name for name in names if factor * weight[name] >= most[name]]
        if not full:
            wanted = {name: factor * weight[name] for name in names}
            break
        for name in full:
            counts[name] = most[name]
            left -= most[name]
        names = [name for name in names if name not in full]
    for name, number in wanted.items():
        counts[name] = math.floor(number)
    fractions: List[str] = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    spare = left - sum(counts[name] for name in wanted) if wanted else 0
    for name in fractions[:spare]:
        counts[name] += 1
    return counts
