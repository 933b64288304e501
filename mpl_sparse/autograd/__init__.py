"""The two operations for torch: autograd Functions, torch.library ops, and the functions that choose between them; and
the recurrence of an LSTM, which is made of one of them."""

from .. import requires_torch  # noqa: F401
from .functions import AddmmFunction, SparseConv2dFunction
from .library import remember_pattern
from .operations import conv2d, linear, traced_conv2d, traced_linear
from .recurrence import LSTMFunction, lstm
from .team import lend_torch_threads

__all__ = [
    "AddmmFunction",
    "LSTMFunction",
    "SparseConv2dFunction",
    "conv2d",
    "linear",
    "lstm",
    "remember_pattern",
    "traced_conv2d",
    "traced_linear",
]

lend_torch_threads()
