"""The command line: `mpl-sparse demo` and `mpl-sparse info`."""

from __future__ import annotations

import argparse
import mmap
import platform
import sys
from importlib import metadata, util
from typing import Dict, Optional, Sequence

import mpl_sparse

from . import _core

__all__ = ["info", "main"]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command and return the exit status. `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(
        prog="mpl-sparse", description="Sparse convolutional and linear layers for PyTorch on CPUs."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo", help="train, prune and time a small network on handwritten digits (under two minutes)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the weights and the order of the images (default: 0)")
    commands.add_parser("info", help="what this build runs on this machine")
    options = parser.parse_args(arguments)

    if options.command == "info":
        try:
            lines = info()
        except ValueError as error:  # a bad MPL_SPARSE_BACKEND or MPL_SPARSE_NUM_THREADS
            parser.exit(1, f"mpl-sparse info: {error}\n")
        for name, value in lines.items():
            print(f"{name + ':':<14}{value}")
        return 0
    for needed, why in (("torch", "trains with PyTorch"), ("tqdm", "shows its progress with tqdm")):
        if util.find_spec(needed) is None:
            parser.exit(1, f"mpl-sparse demo {why}, which is not installed: pip install {needed}\n")
    from .demo import run

    run(options.seed)
    return 0


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
