"""Wanda: weights times the norms of their inputs."""

from __future__ import annotations

from typing import Any, Iterable

import torch
from torch import Tensor, nn

from ..storage import positions
from .batches import Run, check_data, check_function, run_inputs
from .inputs import check_finite, groups_of, square_sums, watch_inputs
from .score import ModelScore, Scores, layers_by_name

__all__ = ["Wanda"]


class Wanda(ModelScore):
    """|w| * ||x||_2, x all values of the input that the weight is multiplied with, over all batches.

    Sun et al., "A simple and effective pruning approach for large language models" (2023, arXiv:2306.11695), equation
    1. For a convolution x is the input at one channel and one place of the kernel, over all positions of the output,
    zeros of the padding included. The paper compares weights within each output, as `prune` does by default
    (`selection="row"`). The norms are those of the model as it is, in one pass over the data.

    Args:
        data: batches that can be gone through again: a list, a DataLoader.
        run: a function (model, batch) that runs the model; by default the batch, or the first item of a tuple, is the
            input, and a dict has the keywords.

    Raises:
        TypeError: `data` can be gone through only once, or `run` is no function.
    """

    selection = "row"

    def __init__(self, data: Iterable[Any], run: Run = run_inputs) -> None:
        self.data = check_data(data)
        self.run = check_function("run", run)

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`. Takes memory for one number for each input feature of a layer. ValueError if a layer's
        inputs are not finite.
        """
        return self.of_only(model, layers_by_name(model))

    def of_only(self, model: nn.Module, names: Iterable[str]) -> Scores:
        """See `ModelScore.of_only`."""
        by_name = layers_by_name(model)
        layers = {name: by_name[name] for name in names}
        squares = {
            name: torch.zeros(groups_of(layer), layer.weight_shape[1:].numel(), dtype=torch.float64)
            for name, layer in layers.items()
        }

        def see(name: str, input: Tensor) -> None:
            squares[name] += square_sums(layers[name], input)

        watch_inputs(model, layers, self.data, self.run, see)
        return {
            name: (
                layer.remaining_weight().double().abs() * per_weight(layer, check_finite(name, squares[name]).sqrt())
            )
            for name, layer in layers.items()
        }


def per_weight(layer: Any, per_input: Tensor) -> Tensor:
    """(num_weight,): for each remaining weight of the layer the number of its input, from (groups, cols)."""
    groups, cols = per_input.shape
    places = positions(layer)
    if not places.numel():
        return per_input.new_zeros(0)
    rows_per_group = layer.weight_shape[0] // groups
    group = torch.div(places, cols, rounding_mode="floor") // rows_per_group
    return per_input.reshape(-1)[group * cols + places % cols]
