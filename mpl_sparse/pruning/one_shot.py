"""prune(): a score, a granularity and a selection, at once."""

# Not named prune.py: importing a submodule of that name would hide the function `mpl_sparse.pruning.prune`.

from __future__ import annotations

import math
import numbers
from contextlib import nullcontext
from typing import Any, Iterable, List, Mapping, Optional, Sequence, TypeVar, Union

from torch import nn

from ..nn import Prunable, check_pct
from .granularity import NM, Granularity, check_at_least
from .method import Method, find_method, layers_to_prune
from .schedules import shrunk
from .scores import ModelScore, Score
from .scores.batches import Loss
from .selection import (
    Densities,
    Pool,
    check_density,
    listed,
    pools_by_density,
    pools_by_pct,
    pools_by_rank,
    positions_of,
    remaining_of,
)
from .snapshot import all_or_nothing

__all__ = ["prune"]

ModelT = TypeVar("ModelT", bound=nn.Module)


def prune(
    model: ModelT,
    density: Optional[Densities] = None,
    *,
    pct: Optional[float] = None,
    rank: Optional[int] = None,
    threshold: Optional[float] = None,
    score: Union[str, Score] = "magnitude",
    granularity: Union[str, Granularity, NM] = "weight",
    selection: Optional[str] = None,
    exclude: Union[str, Sequence[str]] = (),
    data: Optional[Iterable[Any]] = None,
    loss: Optional[Loss] = None,
    rounds: Optional[int] = None,
) -> ModelT:
    """Prune any model, in place: the weights with the lowest scores go. Returns the model.

    A model that has no prunable layers is made prunable first (`mpl_sparse.prunable`), all but the excluded layers.
    Masked and sparse layers and LSTMs may be mixed; a layer that is used twice counts once. Pruning never brings a
    weight back: what has fewer weights than asked for stays as it is.

    Args:
        density: the share of all positions that is to stay, 0 to 1. Exactly round(density * positions) weights stay,
            halves up; positions are those of the layers that are not excluded, pruned ones too. With
            `selection="layer"` or "row" also one for each of these layers, in order or by name or pattern
            ({"features.*": 0.3, "*": 0.1}, the first match counts); layers with None, or without a match, stay.
        pct, rank, threshold: instead of a density, the share of the remaining weights to drop (int(pct * remaining)),
            their number, or the score below which they go. Exactly one of the four is given, none with `NM`.
        score: "magnitude", "random", or with `data` also "snip", "grasp", "synflow", "taylor", "squared_gradient",
            "wanda", "obs"; an object such as `SNIP(data, loss)`, for further settings; a function from a prunable layer
            to the scores (num_weight,) of its remaining weights in row-major order.
        granularity: what goes as one: "weight", "kernel", "filter" (or "row"), `Block(rows, cols)`; or `NM(n, m)`. A
            unit is worth the mean of its scores. Whole units never take a pool below its density.
        selection: which weights compete: "global": all. "layer": those of a layer, all layers to the same density.
            "row": those of one output of a layer, each output to the same number of weights, or one more. "er", "erk":
            those of a layer, to the densities of Erdos and Renyi's graphs, which add up to the density of the whole.
            None: "row" for Wanda, "layer" for OBS or where `density` is not one number, else "global".
        exclude: names of layers or of modules that hold layers, or patterns of them (fnmatch): they stay as they are.
        data, loss: for a score given by name: batches that can be gone through again, and a function (model, batch) ->
            scalar tensor, by default the cross entropy for batches (inputs, classes), for GraSP a softened one. For
            scores that only run the model ("wanda", "obs", "synflow") a function that runs it, instead of the loss.
        rounds: prune in so many rounds, each leaving the same share of what the last one left, and score anew before
            each; by default 100 for SynFlow and 1 for all others. More than one take memory for one more of each layer:
            if a score fails in between, the weights that went come back.

    Raises:
        TypeError, ValueError: an argument is not as above; no weight has gone then.
    """
    density = listed(density)
    given = {"density": density, "pct": pct, "rank": rank, "threshold": threshold}
    amounts = [name for name, value in given.items() if value is not None]
    if selection is None and isinstance(density, (Mapping, Sequence)):
        selection = "layer"
    method = find_method(score, granularity, selection, data, loss)
    pattern = isinstance(method.granularity, NM)
    if len(amounts) != (0 if pattern else 1):
        wanted = f"none with granularity={granularity!r}" if pattern else "exactly one"
        raise ValueError(f"give {wanted} of density, pct, rank and threshold, got {amounts or 'none'}")
    own = method.score.rounds if isinstance(method.score, ModelScore) else 1
    if rounds is not None:
        check_at_least("rounds", rounds, 1)
        if rounds > 1 and (pattern or threshold is not None):
            raise ValueError(f"rounds goes with density, pct or rank, got rounds={rounds!r}")
    if isinstance(density, (int, float)):
        check_density(density)
    if pct is not None:
        check_pct(pct)
    if rank is not None:
        check_at_least("rank", rank, 0)
    if threshold is not None:
        _check_threshold(threshold)
    layers = layers_to_prune(model, exclude)
    if pattern:
        method.prune_to_pattern(model, layers)
    elif threshold is not None:
        method.prune_below(model, layers, threshold)
    elif density is not None:
        _in_rounds(model, method, layers, pools_by_density(layers, density, method.selection), rounds or own)
    elif pct is not None:
        _in_rounds(model, method, layers, pools_by_pct(layers, pct, method.selection), rounds or own)
    else:
        _in_rounds(model, method, layers, pools_by_rank(layers, rank, method.selection), rounds or own)
    return model


def _check_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"threshold must be a real number, got {threshold!r}")
    if math.isnan(threshold):  # scores may be negative, and so may this
        raise ValueError(f"threshold must be a number, got {threshold!r}")


def _in_rounds(
    model: nn.Module, method: Method, layers: Mapping[str, Prunable], pools: List[Pool], rounds: int
) -> None:
    initial = [remaining_of(layers, pool.names) / max(positions_of(layers, pool.names), 1) for pool in pools]
    # one round scores before the first weight goes
    with all_or_nothing(layers.values()) if rounds > 1 else nullcontext():
        for done in range(1, rounds + 1):
            steps = [
                Pool(pool.names, shrunk(max(first, pool.density), pool.density, done / rounds))
                for first, pool in zip(initial, pools)
            ]
            method.prune_to(model, layers, steps)
