"""What is measured at one time: a layer with its operands, and the candidates that take turns at it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Conv, Layer
from .timing import Timer

FORWARD, TRAINING, MODELS = WHATS = ("forward", "training", "models")


class Candidate(NamedTuple):
    """One competitor in a task.

    Attributes:
        peer: whose code runs.
        sparsity: that of its weight; None for one that takes the weight as dense.
        seconds: the time of so many calls.
        result: computes once; compared with the expected output. None if there is nothing to compare.
        baseline: whether it is dense PyTorch, which speed-ups are counted from.
    """

    peer: str
    sparsity: Optional[float]
    seconds: Timer
    result: Optional[Callable[[], Tensor]] = None
    baseline: bool = False


@dataclass(frozen=True)
class Task:
    """A layer, forward or in training, with its operands. The seed is the layer's name: a second run has the same ones.

    Attributes:
        what: FORWARD or TRAINING.
        images: the input, (batch, in_channels, size, size) or (batch, in_features).
        weight: dense, no zeros.
        grad: a gradient to the output.
        masks: the positions that are left, by sparsity.
    """

    what: str
    layer: Layer
    threads: int
    images: Tensor
    weight: Tensor
    grad: Tensor
    masks: Dict[float, Tensor]

    @property
    def conv(self) -> Optional[Conv]:
        """The layer, if it is a convolution."""
        return self.layer if isinstance(self.layer, Conv) else None

    def conv_options(self) -> Dict[str, Any]:
        """Of F.conv2d."""
        layer = self.layer
        assert isinstance(layer, Conv)
        return {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}

    def sparse_weight(self, sparsity: float) -> Tensor:
        """The weight with zeros where it is pruned."""
        return self.weight * self.masks[sparsity]

    def expected(self, sparsity: Optional[float]) -> Tensor:
        """The output, by dense PyTorch in double precision."""
        weight = self.weight if sparsity is None else self.sparse_weight(sparsity)
        if self.conv is None:
            return F.linear(self.images.double(), weight.double())
        return F.conv2d(self.images.double(), weight.double(), **self.conv_options())


def make_task(what: str, layer: Layer, batch: int, threads: int, sparsities: Sequence[float]) -> Task:
    """A task with random operands."""
    generator = torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weight = randn(*layer.weight_shape)
    masks = {sparsity: torch.rand(weight.shape, generator=generator) >= sparsity for sparsity in sparsities}
    if isinstance(layer, Conv):
        images = randn(batch, layer.in_channels, layer.size, layer.size)
        grad = randn(batch, layer.out_channels, layer.out_size, layer.out_size)
    else:
        images, grad = randn(batch, layer.in_features), randn(batch, layer.out_features)
    return Task(what, layer, threads, images, weight, grad, masks)


def check(candidate: Candidate, expected: Tensor) -> None:
    """Raise AssertionError if the candidate computes something else: its time would mean nothing."""
    if candidate.result is not None:
        torch.testing.assert_close(candidate.result().double(), expected, rtol=1e-3, atol=1e-3, msg=_whose(candidate))


def _whose(candidate: Candidate) -> Callable[[str], str]:
    return lambda message: f"{candidate.peer} at sparsity {candidate.sparsity}: {message}"
