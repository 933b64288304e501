"""Optimizers and averages for models that are pruned during training; `follow_patterns` for the rest of torch.optim."""

from .. import requires_torch  # noqa: F401
from .averaged_model import AveragedModel
from .follow import follow_patterns
from .sgd import SGD

__all__ = ["SGD", "AveragedModel", "follow_patterns"]
