"""Optimal brain surgeon, layer by layer: second-order scores from the layers' inputs."""

from __future__ import annotations

import math
import numbers
from typing import Any, Iterable

import torch
from torch import Tensor, nn

from .batches import Run, check_data, check_function, run_inputs
from .inputs import check_finite, groups_of, input_gram, watch_inputs
from .score import ModelScore, Scores, layers_by_name
from .wanda import per_weight

__all__ = ["OBS", "check_damping", "layer_hessian"]


class OBS(ModelScore):
    """w^2 / (2 [H^-1]_jj): the least squared error of the layer's outputs after weight j of an output goes and the
    others of that output adapt. H = X X^T + damping, X the layer's inputs over all batches.

    Hassibi, Stork, "Second order derivatives for network pruning: optimal brain surgeon" (1992), for one layer at a
    time as in Frantar, Singh, Alistarh, "Optimal brain compression" (2022, arXiv:2208.11580), equation 3. It only
    scores: `mpl_sparse.pruning.sparsegpt` also corrects the weights that stay. By default each layer is pruned to the
    same density (`selection="layer"`).

    The model runs once over the data for each layer, so that only one H, (cols, cols) in float64 for each group of the
    layer, is in memory. Inputs that are always 0 are worth nothing. H is of all inputs, also
    those of weights that are pruned already, as if these could adapt too.

    Args:
        data, run: as in `Wanda`.
        damping: the share of the mean of H's diagonal that is added to it.

    Raises:
        TypeError: as `Wanda`, or `damping` is no number.
        ValueError: `damping` is not positive and finite.
    """

    selection = "layer"

    def __init__(self, data: Iterable[Any], run: Run = run_inputs, damping: float = 0.01) -> None:
        self.data = check_data(data)
        self.run = check_function("run", run)
        self.damping = check_damping(damping)

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`. ValueError if a layer's inputs are not finite."""
        return self.of_only(model, layers_by_name(model))

    def of_only(self, model: nn.Module, names: Iterable[str]) -> Scores:
        """See `ModelScore.of_only`. The model runs for these layers alone."""
        layers, scores = layers_by_name(model), {}
        for name in names:
            layer = layers[name]
            gram = layer_hessian(model, name, layer, self.data, self.run)
            inverse_diagonal = torch.stack([_inverse_diagonal(each, self.damping) for each in gram])
            weight = layer.remaining_weight().double()
            scores[name] = weight.square() / (2 * per_weight(layer, inverse_diagonal))
        return scores


def layer_hessian(model: nn.Module, name: str, layer: Any, data: Iterable[Any], run: Run) -> Tensor:
    """X X^T of one layer over all batches, (groups, cols, cols), float64. See `input_gram`.

    Raises:
        ValueError: an input is NaN or infinite.
    """
    cols = layer.weight_shape[1:].numel()
    gram = torch.zeros(groups_of(layer), cols, cols, dtype=torch.float64)

    def see(_: str, input: Tensor) -> None:
        gram.add_(input_gram(layer, input))

    watch_inputs(model, {name: layer}, data, run, see)
    return check_finite(name, gram)


def damped(gram: Tensor, damping: float) -> Tensor:
    """H (cols, cols): `gram` with `damping` times its diagonal's mean added there; 1 where an input is always 0."""
    diagonal = gram.diagonal()
    mean = diagonal.mean() if diagonal.numel() else gram.new_zeros(())
    added = torch.where(diagonal == 0, 1.0, damping * mean)
    return gram + torch.diag(added)


def _inverse_diagonal(gram: Tensor, damping: float) -> Tensor:
    """[H^-1]_jj; infinite for inputs that are always 0."""
    if not gram.numel():
        return gram.diagonal()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram, damping))).diagonal()
    return torch.where(gram.diagonal() == 0, math.inf, inverse)


def check_damping(damping: Any) -> float:
    """`damping` as a float > 0; TypeError or ValueError naming it otherwise."""
    if isinstance(damping, bool) or not isinstance(damping, numbers.Real):
        raise TypeError(f"damping must be a real number, got {damping!r}")
    if not 0 < float(damping) < math.inf:
        raise ValueError(f"damping must be positive and finite, got {damping!r}")
    return float(damping)
