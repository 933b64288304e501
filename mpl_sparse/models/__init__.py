"""Ready-made prunable models, and the base class for your own.

torchvision's classifiers are here under torchvision's names (`resnet18`, `vgg16_bn`, ...; `list_models()` has them all)
and its classes under theirs (`ResNet`, ...). They are made when they are first asked for.
"""

from typing import Any, List

from .. import requires_torch  # noqa: F401
from . import vision
from .base_model import BaseModel
from .leaf import (
    Conv2,
    Conv4,
    RedditLSTM,
    Sent140LogisticRegression,
    Sent140LSTM,
    ShakespeareLSTM,
    SyntheticLogisticRegression,
    conv2,
    conv4,
    reddit_lstm,
    sent140_logistic_regression,
    sent140_lstm,
    shakespeare_lstm,
    synthetic_logistic_regression,
)
from .lenet import LeNet5, lenet5
from .origin import origin_of
from .registry import get_model, list_models

__all__ = [
    "BaseModel",
    "Conv2",
    "Conv4",
    "LeNet5",
    "RedditLSTM",
    "Sent140LSTM",
    "Sent140LogisticRegression",
    "ShakespeareLSTM",
    "SyntheticLogisticRegression",
    "conv2",
    "conv4",
    "get_model",
    "lenet5",
    "list_models",
    "origin_of",
    "reddit_lstm",
    "sent140_logistic_regression",
    "sent140_lstm",
    "shakespeare_lstm",
    "synthetic_logistic_regression",
]


def __getattr__(name: str) -> Any:
    if name in vision.CONSTRUCTORS:
        value: Any = vision.model_constructor(name)
    elif name in vision.CLASSES:
        value = vision.model_class(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__, *vision.CONSTRUCTORS})
