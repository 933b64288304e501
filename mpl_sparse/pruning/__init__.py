"""Pruning of whole models: `scores` say which weights are worth least, `model` takes them from each layer."""

from .. import requires_torch  # noqa: F401
from .model import (
    PerLayer,
    prune_by_pct,
    prune_by_rank,
    prune_by_score,
    prune_by_threshold,
    random_prune_by_pct,
)
from .scores import (
    OBS,
    SCORES,
    SNIP,
    GraSP,
    ModelScore,
    Movement,
    SquaredGradient,
    SynFlow,
    Taylor,
    Wanda,
    magnitude,
    random,
)

__all__ = [
    "OBS",
    "SCORES",
    "SNIP",
    "GraSP",
    "ModelScore",
    "Movement",
    "PerLayer",
    "SquaredGradient",
    "SynFlow",
    "Taylor",
    "Wanda",
    "magnitude",
    "prune_by_pct",
    "prune_by_rank",
    "prune_by_score",
    "prune_by_threshold",
    "random",
    "random_prune_by_pct",
]
