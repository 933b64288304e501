"""What a weight is worth: a number for each remaining weight of a layer, in row-major order; the lowest go.

One file for each idea. `score` says what a score is, `names` has those that can be chosen by name, `running` runs a
model without leaving a trace in it.
"""

from .batches import cross_entropy, run_inputs
from .gradient import SNIP, SquaredGradient, Taylor
from .grasp import GraSP
from .local import magnitude, random
from .movement import Movement
from .names import SCORES, find_score
from .obs import OBS
from .score import LayerScore, ModelScore, Score, Scores, scores_of
from .synflow import SynFlow
from .wanda import Wanda

__all__ = [
    "OBS",
    "SCORES",
    "SNIP",
    "GraSP",
    "LayerScore",
    "ModelScore",
    "Movement",
    "Score",
    "Scores",
    "SquaredGradient",
    "SynFlow",
    "Taylor",
    "Wanda",
    "cross_entropy",
    "find_score",
    "magnitude",
    "random",
    "run_inputs",
    "scores_of",
]
