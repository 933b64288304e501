"""Ready-made prunable models, and the base class for your own."""

from .. import requires_torch  # noqa: F401
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
    "lenet5",
    "reddit_lstm",
    "sent140_logistic_regression",
    "sent140_lstm",
    "shakespeare_lstm",
    "synthetic_logistic_regression",
]
