"""Score x granularity x selection: what `prune` and `Pruner` do at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..nn import Prunable, prunable, prunable_layers
from ..nn.convert import Excluded, check_module
from .choice import below
from .granularity import NM, Granularity, Weight, find_granularity
from .scores import ModelScore, Score, Scores, find_score, scores_of
from .scores.batches import Loss
from .selection import Pool, check_selection, dropped, dropped_by_nm, units_of

__all__ = ["Method", "find_method", "layers_to_prune"]

Layers = Mapping[str, Prunable]


@dataclass(frozen=True)
class Method:
    """How to choose the weights that go. Each way to prune chooses for all layers before the first one changes."""

    score: Score
    granularity: Union[Granularity, NM]
    selection: str

    def prune_to(self, model: nn.Module, layers: Layers, pools: Sequence[Pool]) -> None:
        """Bring each pool of `layers` to its density; one that has no more than that stays as it is."""
        scored = {name: layers[name] for pool in pools for name in pool.names}
        self.prune_by(scores_of(model, self.score, scored), layers, pools)

    def prune_by(self, scores: Scores, layers: Layers, pools: Sequence[Pool]) -> None:
        """`prune_to` with scores that are known already."""
        if isinstance(self.granularity, NM):
            raise ValueError(f"granularity={self.granularity!r} decides itself how many weights stay, not a density")
        _drop(layers, dropped(layers, scores, pools, self.granularity, self.selection))

    def prune_to_pattern(self, model: nn.Module, layers: Layers) -> None:
        """Bring `layers` to the N:M pattern."""
        if not isinstance(self.granularity, NM):
            raise ValueError(f"granularity must be NM(n, m), got {self.granularity!r}")
        _drop(layers, dropped_by_nm(layers, scores_of(model, self.score, layers), self.granularity))

    def prune_below(self, model: nn.Module, layers: Layers, threshold: float) -> None:
        """Drop the units of `layers` whose mean score is below `threshold`."""
        if isinstance(self.granularity, NM):
            raise ValueError(f"granularity={self.granularity!r} decides itself which weights stay, not a threshold")
        scores = scores_of(model, self.score, layers)
        gone = {
            name: below(scores[name], units_of(layer, self.granularity), threshold) for name, layer in layers.items()
        }
        _drop(layers, gone)


def find_method(
    score: Any, granularity: Any, selection: Optional[str], data: Optional[Iterable[Any]], loss: Optional[Loss]
) -> Method:
    """The parts by their names; TypeError or ValueError, naming the part, if there is none or they do not fit."""
    found, unit = find_score(score, data, loss), find_granularity(granularity)
    if selection is None:
        selection = found.selection if isinstance(found, ModelScore) else "global"
        if selection == "row" and not isinstance(unit, Weight):
            selection = "layer"
    return Method(found, unit, check_selection(selection, unit))


def layers_to_prune(model: nn.Module, exclude: Any) -> Dict[str, Prunable]:
    """The prunable layers of `model` by name, without the excluded ones. A model that has none is made prunable first,
    in place, without the excluded ones.

    Raises:
        TypeError: `model` is no nn.Module, or `exclude` no string or sequence of them.
        ValueError: a pattern of `exclude` matches nothing, or no layer is left to prune.
    """
    check_module(model)
    excluded = Excluded(model, exclude)
    if not prunable_layers(model):
        prunable(model, exclude)
    layers = {name: layer for name, layer in prunable_layers(model) if excluded.why(layer) is None}
    if not layers:
        raise ValueError("model has no layer to prune that is not excluded: see mpl_sparse.conversion_report(model)")
    return layers


def _drop(layers: Layers, gone: Mapping[str, Tensor]) -> None:
    counts: Dict[str, Tuple[Tensor, int]] = {name: (lost, int(lost.sum())) for name, lost in gone.items()}
    for name, (lost, count) in counts.items():
        if count:
            layers[name].prune_lowest((~lost).to(torch.float32), count)
