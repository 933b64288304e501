"""Which pattern a parameter of values belongs to, and how values move from one pattern to the next."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..pattern import Pattern

__all__ = ["bind_pattern", "carry", "pattern_of", "times_bound"]

_patterns: Any = WeakTensorKeyDictionary()
_times_bound = 0


def pattern_of(parameter: Tensor) -> Optional[Pattern]:
    """The pattern of a sparse layer's `values` parameter; None for any other tensor."""
    return _patterns.get(parameter)


def bind_pattern(parameter: Tensor, pattern: Pattern) -> None:
    """Note that `parameter` holds the values of `pattern`, until it is bound again or dies."""
    global _times_bound
    _patterns[parameter] = pattern
    _times_bound += 1


def times_bound() -> int:
    """How often any parameter was bound: while this number stays, so does every pattern."""
    return _times_bound


def carry(tensor: Tensor, old: Pattern, new: Pattern, grown: float = 0.0) -> Tensor:
    """`tensor`, one element per position of `old`, moved to `new`: survivors keep theirs, grown positions get `grown`.

    Shape:
        tensor (old.nnz,); result (new.nnz,).
    """
    source = old.locate(new)
    survivors = np.flatnonzero(source >= 0)  # by position, not by mask: this also works on the meta device
    to, origin = (torch.from_numpy(each).to(tensor.device) for each in (survivors, source[survivors]))
    moved = tensor.new_full((new.nnz,), grown)
    moved[to] = tensor.detach()[origin]
    return moved
