"""Unstructured pruning and truly sparse convolution and linear layers for PyTorch on CPUs.

The names below are the public interface. Each is imported when it is first used: `import mpl_sparse` loads neither
torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import autograd, functional, models, nn, optim, pruning, serializer
    from ._core import backend, backends, cpu_features, set_backend, set_tuning, tuning
    from .nn import conversion_report, fuse, prunable, to_dense, to_sparse
    from .pattern import Pattern
    from .pruning import prune_by_pct, prune_by_rank, prune_by_score, prune_by_threshold, random_prune_by_pct
    from .report import summary
    from .serializer import dumps, import_legacy, inspect, load, loads, save
    from .threads import get_num_threads, set_num_threads

# Where each name is found. A module stands under its own name.
_HOME = {
    "Pattern": "pattern",
    "backend": "_core",
    "backends": "_core",
    "cpu_features": "_core",
    "set_backend": "_core",
    "set_tuning": "_core",
    "tuning": "_core",
    "get_num_threads": "threads",
    "set_num_threads": "threads",
    "functional": "functional",
    "autograd": "autograd",
    "nn": "nn",
    "pruning": "pruning",
    "optim": "optim",
    "models": "models",
    "conversion_report": "nn",
    "prunable": "nn",
    "fuse": "nn",
    "to_dense": "nn",
    "to_sparse": "nn",
    "prune_by_pct": "pruning",
    "prune_by_rank": "pruning",
    "prune_by_score": "pruning",
    "prune_by_threshold": "pruning",
    "random_prune_by_pct": "pruning",
    "summary": "report",
    "serializer": "serializer",
    "dumps": "serializer",
    "import_legacy": "serializer",
    "inspect": "serializer",
    "load": "serializer",
    "loads": "serializer",
    "save": "serializer",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'mpl_sparse' has no attribute {name!r}")
    module = importlib.import_module(f".{home}", __name__)
    value = module if name == home else getattr(module, name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
