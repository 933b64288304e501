"""Averages of weights (SWA, EMA) that survive pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..nn import SparseConv2d, SparseLinear, prunable_layers

__all__ = ["AveragedModel"]


class AveragedModel(torch.optim.swa_utils.AveragedModel):
    """torch.optim.swa_utils.AveragedModel, argument for argument, for a model that is pruned during training.

    Before each average its layers take on the patterns and masks of the model's: surviving weights keep their average,
    weights that grow in a sparse layer start from 0. torch's own adds up weights of different places where a layer has
    changed its pattern, and with `use_buffers` also the positions.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's patterns, then average.

        Raises:
            ValueError: the model has other prunable layers than the one that the average was made from.
        """
        averages, layers = prunable_layers(self.module), prunable_layers(model)
        kinds, expected = ([(name, type(layer).__name__) for name, layer in each] for each in (layers, averages))
        if kinds != expected:
            raise ValueError(f"model must have the prunable layers {expected}, got {kinds}")
        pairs = [(average, layer) for (_, average), (_, layer) in zip(averages, layers)]
        for average, layer in pairs:
            if average.pattern != layer.pattern:
                _follow(average, layer)
        super().update_parameters(model)
        if self.use_buffers:
            for average, layer in pairs:
                _follow(average, layer)


def _follow(average: Any, layer: Any) -> None:
    if isinstance(average, (SparseConv2d, SparseLinear)):
        average.pattern = layer.pattern
    else:
        average.set_mask(layer.mask)
