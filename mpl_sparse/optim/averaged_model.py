"""Averages of weights (SWA, EMA) that survive pruning."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Tuple

import torch
from torch import nn

from ..nn import SparseConv2d, SparseLinear, prunable_layers

__all__ = ["AveragedModel"]


class AveragedModel(torch.optim.swa_utils.AveragedModel):
    """torch.optim.swa_utils.AveragedModel, argument for argument, for a model that is pruned during training.

    Before each average its layers take on the patterns and masks of the model's: surviving weights keep their average,
    weights that grow in a sparse layer start from 0. torch's own adds up weights of different places where a layer has
    changed its pattern, and with `use_buffers` also the positions; of masks it makes no average.
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
        with _without_positions(averages), _without_positions(layers):
            super().update_parameters(model)


def _follow(average: Any, layer: Any) -> None:
    if isinstance(average, (SparseConv2d, SparseLinear)):
        average.pattern = layer.pattern
    else:
        average.set_mask(layer.mask)


@contextlib.contextmanager
def _without_positions(layers: List[Tuple[str, Any]]) -> Iterator[None]:
    """The layers without the buffers of which there is no average."""
    taken = [
        (layer, {name: layer._buffers.pop(name) for name in ("mask", "row_ptr", "col_idx") if name in layer._buffers})
        for _, layer in layers
    ]
    try:
        yield
    finally:
        for layer, buffers in taken:
            layer._buffers.update(buffers)
