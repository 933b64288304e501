"""What a score is: a number for each remaining weight; the lowest go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, Iterable, Mapping, Union

import torch
from torch import Tensor, nn

from ...nn import Prunable, prunable_layers

__all__ = ["LayerScore", "ModelScore", "Score", "Scores", "scores_of"]

Scores = Dict[str, Tensor]  # by the layer's name: (num_weight,), in row-major order of position

LayerScore = Callable[[Prunable], Tensor]


class ModelScore(ABC):
    """A score that looks beyond the layer: at data, at gradients, at what it saw during training.

    Attributes:
        rounds: in how many rounds `mpl_sparse.pruning.prune` prunes, scoring anew before each, unless it is told.
        selection: which weights compete, unless `prune` is told.
    """

    rounds: int = 1
    selection: str = "global"

    @abstractmethod
    def of(self, model: nn.Module) -> Scores:
        """The scores of each prunable layer of `model`, (num_weight,), by its name in `prunable_layers(model)`.

        The model runs in the mode, train or eval, that it is in (what differs, says so), and comes out as it went in:
        weights, gradients, requires_grad, buffers, training flags and torch's random numbers.
        """

    def of_only(self, model: nn.Module, names: Iterable[str]) -> Scores:
        """The scores of the layers of these names, and maybe others: for a score to which each layer is work."""
        return self.of(model)


Score = Union[LayerScore, ModelScore]


def scores_of(model: nn.Module, score: Score, layers: Mapping[str, Prunable]) -> Scores:
    """The scores of `layers`, some of the prunable layers of `model`, checked, detached.

    Raises:
        TypeError: `score` gives something else than tensors.
        ValueError: it gives the wrong number of them, or none for a layer.
    """
    if isinstance(score, ModelScore):
        given: Dict[str, Any] = score.of_only(model, layers) if layers else {}
    else:
        given = {name: score(layer) for name, layer in layers.items()}
    checked = {}
    for name, layer in layers.items():
        if name not in given:
            raise ValueError(f"score gives nothing for the layer {name!r}")
        scores = given[name]
        if not isinstance(scores, Tensor):
            raise TypeError(f"score must give a torch tensor, got {type(scores).__name__}")
        if scores.shape != (layer.num_weight,):
            raise ValueError(
                f"score must give {(layer.num_weight,)} numbers for the layer {name!r}, got {tuple(scores.shape)}"
            )
        # torch selects no lowest of bools
        checked[name] = scores.detach().to(torch.uint8) if scores.dtype == torch.bool else scores.detach()
    return checked


def layers_by_name(model: nn.Module) -> Dict[str, Any]:
    """The prunable layers of `model` by name, each once."""
    return dict(prunable_layers(model))
