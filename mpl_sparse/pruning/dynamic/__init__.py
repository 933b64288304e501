"""Dynamic sparse training: weights move to other positions while the model trains.

`DynamicSparsity` is a drop rule x a grow rule x a start rule x a schedule, at constant density; `SET` and `RigL` are
settings of it. `PruneFL` lets the density follow from measured times.
"""

from ... import requires_torch  # noqa: F401
from .drop import smallest_by_sign, smallest_magnitude
from .fractions import constant_fraction, cosine_fraction
from .gradients import GrowthGradients, growth_gradients
from .grow import AtRandom, GrowRule, LargestGradient
from .prunefl import PruneFL, Reconfiguration, best_additions
from .sparsity import SET, DynamicSparsity, RigL
from .start import uniform_start, zero_start

__all__ = [
    "SET",
    "AtRandom",
    "DynamicSparsity",
    "GrowRule",
    "GrowthGradients",
    "LargestGradient",
    "PruneFL",
    "Reconfiguration",
    "RigL",
    "best_additions",
    "constant_fraction",
    "cosine_fraction",
    "growth_gradients",
    "smallest_by_sign",
    "smallest_magnitude",
    "uniform_start",
    "zero_start",
]
