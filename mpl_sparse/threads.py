"""The number of threads for numpy arrays. Torch tensors use torch.get_num_threads()."""

from __future__ import annotations

import operator
import os
from typing import Optional

from . import _core

__all__ = ["get_num_threads", "set_num_threads"]

_num_threads: Optional[int] = None


def get_num_threads() -> int:
    """The threads used for numpy arrays: the last `set_num_threads`, else MPL_SPARSE_NUM_THREADS, else every core.

    Raises:
        ValueError: the environment variable is not a positive integer.
    """
    if _num_threads is None:
        text = os.environ.get("MPL_SPARSE_NUM_THREADS")
        set_num_threads(_core.cpu_count() if text is None else _parsed(text))
    assert _num_threads is not None
    return _num_threads


def set_num_threads(num_threads: int) -> None:
    """Use this many threads for numpy arrays from now on. Results do not depend on it.

    Raises:
        TypeError: `num_threads` is not an integer.
        ValueError: it is below 1.
    """
    global _num_threads
    try:
        count = operator.index(num_threads)
    except TypeError:
        raise TypeError(f"num_threads must be an integer, got {num_threads!r}") from None
    if count < 1:
        raise ValueError(f"num_threads must be at least 1, got {count}")
    _num_threads = count


def _parsed(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"MPL_SPARSE_NUM_THREADS must be a positive integer, got {text!r}")
    return int(text)
