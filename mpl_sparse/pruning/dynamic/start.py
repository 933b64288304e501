"""What the weights that an update grows start with.

A start rule is a function of the layer, of how many weights grow in it, and of a generator: their values (count,).
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Generator, Tensor

__all__ = ["StartRule", "uniform_start", "zero_start"]

StartRule = Callable[[Any, int, Generator], Tensor]


def zero_start(layer: Any, count: int, generator: Generator) -> Tensor:
    """0: what RigL has (arXiv:1911.11134). A weight that grows changes nothing at first."""
    return torch.zeros(count, device="cpu")


def uniform_start(layer: Any, count: int, generator: Generator) -> Tensor:
    """Uniform in +-1 / sqrt(k), k being the mean number of weights that an output of the layer keeps: what torch gives
    a new layer of k inputs. As SET's authors do in their sparse programs, a weight that grows is as large as one that
    was there at first."""
    inputs = max(1.0, layer.num_weight / max(1, layer.weight_shape[0]))
    return torch.empty(count, device="cpu").uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
