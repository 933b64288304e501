"""SGD for models that are pruned during training, and `follow_patterns` for every other optimizer of torch.optim."""

from .. import requires_torch  # noqa: F401
from .follow import follow_patterns
from .sgd import SGD

__all__ = ["SGD", "follow_patterns"]
