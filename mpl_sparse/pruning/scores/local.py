"""Scores that need nothing but the layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ...nn import Prunable

__all__ = ["magnitude", "random"]


def magnitude(layer: Prunable) -> Tensor:
    """|w|, (num_weight,). Han et al., "Learning both weights and connections" (2015, arXiv:1506.02626)."""
    return layer.remaining_weight().abs()


def random(layer: Prunable) -> Tensor:
    """Uniform in [0, 1), (num_weight,), from torch's default generator: what every other score has to beat."""
    return torch.rand(layer.num_weight, device=layer.remaining_weight().device)
