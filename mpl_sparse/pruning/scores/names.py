"""Scores by name."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Iterable, Mapping, Optional, Union

from .batches import Loss
from .gradient import SNIP, SquaredGradient, Taylor
from .grasp import GraSP
from .local import magnitude, random
from .obs import OBS
from .score import ModelScore, Score
from .synflow import SynFlow
from .wanda import Wanda

__all__ = ["SCORES", "find_score"]

# A function of a layer, or a class of scores that need data.
SCORES: Mapping[str, Any] = MappingProxyType(
    {
        "magnitude": magnitude,
        "random": random,
        "snip": SNIP,
        "grasp": GraSP,
        "synflow": SynFlow,
        "taylor": Taylor,
        "squared_gradient": SquaredGradient,
        "wanda": Wanda,
        "obs": OBS,
    }
)


def find_score(score: Any, data: Optional[Iterable[Any]] = None, loss: Optional[Loss] = None) -> Score:
    """A score itself, or the one of that name, made with `data` and `loss` if it needs them.

    Raises:
        TypeError: `score` is neither a name nor a score.
        ValueError: there is no such name; it needs data and there is none; or there is data and it needs none.
    """
    if isinstance(score, str):
        if score not in SCORES:
            raise ValueError(f"score must be one of {sorted(SCORES)}, got {score!r}")
        if isinstance(SCORES[score], type):
            return _made(score, SCORES[score], data, loss)
        score = SCORES[score]
    elif isinstance(score, type):
        raise TypeError(f"score must be a name, a function or an object: make one, {score.__name__}(data)")
    elif not isinstance(score, ModelScore) and not callable(score):
        raise TypeError(f"score must be a name or a function, got {score!r}")
    if data is not None or loss is not None:
        given = "data" if data is not None else "loss"
        raise ValueError(f"{given} belongs to a score that is given by name and needs it, got score={score!r}")
    return score


def _made(name: str, kind: Any, data: Optional[Iterable[Any]], loss: Optional[Loss]) -> Union[ModelScore, Any]:
    if data is None:
        raise ValueError(f"score {name!r} needs data: give data=, or score={kind.__name__}(data) as an object")
    return kind(data) if loss is None else kind(data, loss)
