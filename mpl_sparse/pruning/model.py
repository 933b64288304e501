"""Pruning of every prunable layer of any nn.Module. All arguments are checked before the first layer changes."""

from __future__ import annotations

from typing import Iterable, List, Optional, Sequence, Sized, Tuple, TypeVar, Union

import numpy as np
from torch import Generator, Tensor, nn

from ..nn import Prunable, check_pct, check_rank, check_threshold, prunable_layers
from .scores import Score, find_score, scores_of

__all__ = ["PerLayer", "prune_by_pct", "prune_by_rank", "prune_by_score", "prune_by_threshold", "random_prune_by_pct"]

ModelT = TypeVar("ModelT", bound=nn.Module)
Number = TypeVar("Number", int, float)

# One value for all prunable layers, or one for each of them in the order of `named_modules()`; None leaves a layer as
# it is.
PerLayer = Union[None, Number, Sequence[Optional[Number]]]


def prune_by_threshold(model: ModelT, thr: PerLayer[float]) -> ModelT:
    """Keep the weights with |w| >= thr, in place. Returns the model.

    Raises:
        TypeError, ValueError: for a threshold that is no number, negative or NaN, or a list that has not one value a
            layer; nothing is pruned then.
    """
    work = _assign(model, "thr", thr)
    for _, layer_thr in work:
        check_threshold(layer_thr)
    for layer, layer_thr in work:
        layer.prune_by_threshold(layer_thr)
    return model


def prune_by_rank(model: ModelT, rank: PerLayer[int]) -> ModelT:
    """Drop the `rank` smallest remaining weights of a layer, exactly so many, ties broken by position; in place.
    Returns the model.

    Raises:
        TypeError, ValueError: for a rank that is no integer, negative or more than what remains, or a list that has not
            one value a layer; nothing is pruned then.
    """
    work = _assign(model, "rank", rank)
    for layer, layer_rank in work:
        check_rank(layer_rank, layer.num_weight)
    for layer, layer_rank in work:
        layer.prune_by_rank(layer_rank)
    return model


def prune_by_pct(model: ModelT, pct: PerLayer[float]) -> ModelT:
    """Drop the int(pct * remaining) smallest remaining weights of a layer, 0 <= pct <= 1, in place. Returns the model.

    Raises:
        TypeError, ValueError: for a pct that is no number or outside [0, 1], or a list that has not one value a layer;
            nothing is pruned then.
    """
    work = _assign_pct(model, pct)
    for layer, layer_pct in work:
        layer.prune_by_pct(layer_pct)
    return model


def random_prune_by_pct(model: ModelT, pct: PerLayer[float], generator: Optional[Generator] = None) -> ModelT:
    """Drop int(pct * remaining) remaining weights of a layer, chosen by `generator` (torch's default one if None), in
    place. Returns the model.

    Raises:
        TypeError, ValueError: as `prune_by_pct`.
    """
    work = _assign_pct(model, pct)
    for layer, layer_pct in work:
        layer.random_prune_by_pct(layer_pct, generator)
    return model


def prune_by_score(model: ModelT, score: Union[str, Score], pct: PerLayer[float]) -> ModelT:
    """Drop the int(pct * remaining) weights of a layer with the lowest scores, in place. Returns the model.

    Args:
        score: a name in `mpl_sparse.pruning.SCORES`, a function from a prunable layer to the scores (num_weight,) of
            its remaining weights in row-major order, or an object such as `mpl_sparse.pruning.SNIP(data)`.

    Raises:
        TypeError, ValueError: for an unknown score or one of the wrong shape, and as `prune_by_pct`; nothing is pruned
            then.
    """
    score = find_score(score)
    work = _assign_pct(model, pct)
    names = {layer: name for name, layer in prunable_layers(model)}
    scores = scores_of(model, score, {names[layer]: layer for layer, _ in work})
    for layer, layer_pct in work:
        layer.prune_lowest(scores[names[layer]], int(layer_pct * layer.num_weight))
    return model


def _assign(model: nn.Module, name: str, argument: PerLayer[Number]) -> List[Tuple[Prunable, Number]]:
    """Each prunable layer with its value, without those that None skips."""
    layers = [layer for _, layer in prunable_layers(model)]
    if isinstance(argument, (Tensor, np.ndarray)):
        argument = argument.tolist()
    if isinstance(argument, (Sized, Iterable)):
        if not isinstance(argument, Sequence) or isinstance(argument, str):
            raise TypeError(f"{name} must be a number, None or a sequence of them, got {argument!r}")
        values = list(argument)
        if len(values) != len(layers):
            raise ValueError(
                f"{name} must have one value for each of the {len(layers)} prunable layers, got {len(values)} values"
            )
    else:
        values = [argument] * len(layers)
    return [(layer, value) for layer, value in zip(layers, values) if value is not None]


def _assign_pct(model: nn.Module, pct: PerLayer[float]) -> List[Tuple[Prunable, float]]:
    work = _assign(model, "pct", pct)
    for _, layer_pct in work:
        check_pct(layer_pct)
    return work
