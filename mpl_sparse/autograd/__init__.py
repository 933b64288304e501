"""The two operations for torch: autograd Functions, torch.library ops, and the functions that choose between them; and
the recurrence of an LSTM, which is made of one of them."""

from .. import requires_torch  # noqa: F401
from .dense import dense_conv2d, dense_linear
from .functions import AddmmFunction, SparseConv2dFunction
from .library import remember_pattern
from .masking import masked
from .operations import conv2d, eager_conv2d, eager_linear, linear, runs_on_kernels, traced_conv2d, traced_linear
from .recording import is_recorded
from .recurrence import LSTMFunction, lstm
from .team import lend_torch_threads

__all__ = [
    "AddmmFunction",
    "LSTMFunction",
    "SparseConv2dFunction",
    "conv2d",
    "dense_conv2d",
    "dense_linear",
    "eager_conv2d",
    "eager_linear",
    "is_recorded",
    "linear",
    "lstm",
    "masked",
    "remember_pattern",
    "runs_on_kernels",
    "traced_conv2d",
    "traced_linear",
]

lend_torch_threads()
