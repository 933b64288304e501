"""Scores from the gradient g of a loss in the weights w."""

from __future__ import annotations

import math
import numbers
from typing import Any, Iterable, Mapping, Optional

import torch
from torch import Tensor, nn

from ..storage import at_remaining, stored
from .batches import Loss, check_data, check_function, cross_entropy
from .running import mean_gradients
from .score import ModelScore, Scores, layers_by_name

__all__ = ["SNIP", "SquaredGradient", "Taylor"]


class OfLoss(ModelScore):
    def __init__(self, data: Iterable[Any], loss: Loss = cross_entropy) -> None:
        self.data = check_data(data)
        self.loss = check_function("loss", loss)


class SNIP(OfLoss):
    """|g * w|, g the gradient of the mean loss over all batches: by how much the loss would change, to first order.

    Lee et al., "SNIP: Single-shot network pruning based on connection sensitivity" (2019, arXiv:1810.02340), equation
    6. The paper divides by the sum over all weights, which changes no order. It scores once, before training, over the
    whole network; `prune(..., rounds=n)` scores n times. Each batch counts alike, whatever its size.

    Args:
        data: batches that can be gone through again: a list, a DataLoader.
        loss: a function (model, batch) -> scalar tensor; by default the cross entropy for batches (inputs, classes).

    Raises:
        TypeError: `data` can be gone through only once, or `loss` is no function.
    """

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`. Takes memory for two gradients, in the form the layers are stored in."""
        layers = layers_by_name(model)
        means = mean_gradients(model, list(layers.values()), self.data, self.loss)
        return {
            name: (at_remaining(layer, gradient) * layer.remaining_weight()).abs()
            for (name, layer), gradient in zip(layers.items(), means)
        }


class Taylor(OfLoss):
    """(g * w)^2, the mean of it over the batches: the squared change of the loss, to first order.

    Molchanov et al., "Importance estimation for neural network pruning" (2019, arXiv:1906.10771), equation 8, for
    weights. The gradient is that of each batch, unlike SNIP's.

    Args:
        data, loss: as in `SNIP`.

    Raises:
        TypeError: as `SNIP`.
    """

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`."""
        layers = layers_by_name(model)

        def squared(layer: nn.Module, gradient: Tensor) -> Tensor:
            return at_remaining(layer, gradient * stored(layer).detach()).square()

        return dict(zip(layers, mean_gradients(model, list(layers.values()), self.data, self.loss, squared)))


class SquaredGradient(OfLoss):
    """g^2 / t, the mean of g^2 over the batches: how much a weight brings the loss down for the time it takes.

    Jiang et al., "Model pruning enables efficient federated learning on edge devices" (PruneFL, 2019,
    arXiv:1909.12326), section IV.

    Args:
        data, loss: as in `SNIP`.
        times: for each prunable layer, by name, the seconds that one remaining weight of it takes, measured; without
            it t = 1 everywhere. Weights that take no time come last.

    Raises:
        TypeError: as `SNIP`, or `times` is not a mapping from names to numbers.
        ValueError: a time is negative or not finite; when it scores, `times` has no entry for a layer.
    """

    def __init__(
        self, data: Iterable[Any], loss: Loss = cross_entropy, times: Optional[Mapping[str, float]] = None
    ) -> None:
        super().__init__(data, loss)
        if times is not None and not isinstance(times, Mapping):
            raise TypeError(f"times must map names of layers to seconds, got {times!r}")
        self.times = None if times is None else {name: _checked_time(name, time) for name, time in times.items()}

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`."""
        layers = layers_by_name(model)
        times = dict.fromkeys(layers, 1.0) if self.times is None else self.times
        for name in layers:
            if name not in times:
                raise ValueError(f"times has no entry for the layer {name!r}")

        def squared(layer: nn.Module, gradient: Tensor) -> Tensor:
            return at_remaining(layer, gradient).square()

        means = mean_gradients(model, list(layers.values()), self.data, self.loss, squared)
        return {
            name: mean / times[name] if times[name] else torch.full_like(mean, math.inf)
            for name, mean in zip(layers, means)
        }


def _checked_time(name: Any, time: Any) -> float:
    if isinstance(time, bool) or not isinstance(time, numbers.Real):
        raise TypeError(f"times must hold numbers, got {time!r} for {name!r}")
    if not 0 <= float(time) < math.inf:
        raise ValueError(f"times must be finite and not negative, got {time!r} for {name!r}")
    return float(time)
