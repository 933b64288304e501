"""`mpl-sparse info`: what this build runs on this machine."""

from __future__ import annotations

import mmap
import platform
import sys
from importlib import metadata, util
from typing import Dict

import mpl_sparse

from .. import _core

__all__ = ["info"]


def info() -> Dict[str, str]:
    """What decides how fast the kernels run here. Does not import torch."""
    return {
        "mpl-sparse": _version("mpl-sparse"),
        "backend": mpl_sparse.backend(),
        "backends": " ".join(mpl_sparse.backends()),
        "CPU": platform.machine(),
        "CPU features": " ".join(mpl_sparse.cpu_features()) or "none",
        "threads": str(mpl_sparse.get_num_threads()),
        "thread team": _thread_team(),
        "page size": f"{mmap.PAGESIZE} bytes",
        "Python": platform.python_version(),
        "numpy": _version("numpy"),
        "torch": _version("torch"),
    }


def _thread_team() -> str:
    if _core.team():
        return "torch's OpenMP threads"
    if "torch" in sys.modules or not util.find_spec("torch"):
        return "own pool"
    return "own pool; with torch its OpenMP threads, where it has them"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
