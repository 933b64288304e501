"""Those who take part: ours, dense PyTorch, and other libraries. One file each."""

from __future__ import annotations

from .deepsparse import DeepSparse
from .litert import LiteRT
from .onnxruntime import OnnxRuntime
from .ours import Ours
from .peer import Peer
from .scipy import Scipy
from .torch_csr import TorchCSR
from .torch_dense import TorchDense

__all__ = ["CONTESTANTS", "PEERS", "Peer"]

# Always there: what is measured, and what it is measured against.
CONTESTANTS = (Ours, TorchDense)
# Left out by `--peers`, or where they are not installed.
PEERS = (TorchCSR, Scipy, OnnxRuntime, DeepSparse, LiteRT)
