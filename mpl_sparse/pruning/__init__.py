"""Pruning of whole models, a product of independent parts: score x granularity x selection x schedule.

`prune` puts the first three together once, `Pruner` all four during training; `scores`, `granularity`, `selection` and
`schedules` are the parts. `Rewinding`, `EarlyStop` and `sensitivity` go with any of them. `sparsegpt` also corrects the
weights that stay. `RigL`, `SET` and `PruneFL` move the weights of a model while it trains. The functions prune_by_*
prune each layer for itself, as the layers' own methods do.
"""

from .. import requires_torch  # noqa: F401
from .dynamic import SET, DynamicSparsity, PruneFL, RigL, growth_gradients
from .early_stop import EarlyStop
from .granularity import NM, Block, Filter, Granularity, Kernel, Weight
from .model import (
    PerLayer,
    prune_by_pct,
    prune_by_rank,
    prune_by_score,
    prune_by_threshold,
    random_prune_by_pct,
)
from .one_shot import prune
from .pruner import Pruner
from .rewinding import Rewinding
from .schedules import Cubic, Exponential, Iterative, OneShot, Schedule
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
from .sensitivity_analysis import Sensitivity, sensitivity
from .sparse_gpt import sparsegpt
from .time_model import TimeModel, fit_time_model, measure_time_model

__all__ = [
    "NM",
    "OBS",
    "SCORES",
    "SET",
    "SNIP",
    "Block",
    "Cubic",
    "DynamicSparsity",
    "EarlyStop",
    "Exponential",
    "Filter",
    "GraSP",
    "Granularity",
    "Iterative",
    "Kernel",
    "ModelScore",
    "Movement",
    "OneShot",
    "PerLayer",
    "PruneFL",
    "Pruner",
    "Rewinding",
    "RigL",
    "Schedule",
    "Sensitivity",
    "SquaredGradient",
    "SynFlow",
    "Taylor",
    "TimeModel",
    "Wanda",
    "Weight",
    "fit_time_model",
    "growth_gradients",
    "magnitude",
    "measure_time_model",
    "prune",
    "prune_by_pct",
    "prune_by_rank",
    "prune_by_score",
    "prune_by_threshold",
    "random",
    "random_prune_by_pct",
    "sensitivity",
    "sparsegpt",
]
