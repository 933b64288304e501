"""torch's optimizers and averages for models that are pruned during training; `follow_patterns` for all others."""

from ..requires_torch import torch  # isort: split

from . import optimizers
from .averaged_model import AveragedModel
from .follow import follow_patterns
from .optimizers import *  # noqa: F403

__all__ = ["AveragedModel", "follow_patterns"]
__all__ += optimizers.__all__


def __getattr__(name: str) -> None:
    if name in ("Adafactor", "Muon"):
        raise AttributeError(f"mpl_sparse.optim has no {name}, for torch {torch.__version__} has none")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
