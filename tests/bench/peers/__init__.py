"""Those who take part: ours, dense PyTorch, and other libraries. One file each."""

from __future__ import annotations

from .deepsparse import DeepSparse
from .onnxruntime import OnnxRuntime
from .ours import Ours
from .peer import Peer
from .scipy import Scipy
from .torch_csr import TorchCSR
from .torch_dense import TorchDense

__all__ = ["CONTESTANTS", "LEFT_OUT", "PEERS", "Peer"]

# Always there: what is measured, and what it is measured against.
CONTESTANTS = (Ours, TorchDense)
# Left out by `--peers`, or where they are not installed.
PEERS = (TorchCSR, Scipy, OnnxRuntime, DeepSparse)

# Tried, and not taken in: why.
LEFT_OUT = {
    "XNNPACK": "LiteRT 2.3 on x86-64 ran 1x1 convolutions with sparse weights (DENSIFY, 50 to 95%) in the time of "
    "dense ones, so its sparse kernels were not in use",
}
