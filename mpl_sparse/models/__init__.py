"""Ready-made prunable models, and the base class for your own."""

from .. import requires_torch  # noqa: F401
from .base_model import BaseModel
from .leaf import Conv2, Conv4, conv2, conv4
from .lenet import LeNet5, lenet5

__all__ = ["BaseModel", "Conv2", "Conv4", "LeNet5", "conv2", "conv4", "lenet5"]
