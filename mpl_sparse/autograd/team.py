"""Lends the core the OpenMP threads that torch computes with: two sets of threads would fight over the same cores."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from .. import _core

__all__ = ["lend_torch_threads"]

_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC among the kernel's flags of a process


def lend_torch_threads() -> bool:
    """Let the core compute on torch's OpenMP threads; False, and its own pool stays, where that cannot be.

    It needs Linux, a torch that is parallel by OpenMP, and a process that started afresh: libgomp waits forever for its
    threads in a forked child whose parent had used them.
    """
    address = _gomp_parallel() if _openmp_is_sound() else 0
    if address:
        _core.set_team(address)
    return bool(address)


def _openmp_is_sound() -> bool:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return False
    try:
        stat = Path("/proc/self/stat").read_text()
        flags = int(stat.rpartition(")")[2].split()[6])  # after the name, which may hold anything
    except (OSError, ValueError, IndexError):
        return False
    return not flags & _FORKED_WITHOUT_EXEC


def _gomp_parallel() -> int:
    """The address of the GOMP_parallel that torch calls, 0 if there is none. Loads no library."""
    libtorch = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    for name in (None, libtorch):  # as the loader has resolved it: what the whole process shares, then torch's own
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
    return 0
