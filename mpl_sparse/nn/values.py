"""Which pattern a parameter of values belongs to, and how values move from one pattern to the next."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..pattern import Pattern

__all__ = ["bind_pattern", "carry", "pattern_of"]

_patterns: Any = WeakTensorKeyDictionary()


def pattern_of(parameter: Tensor) -> Optional[Pattern]:
    """The pattern of a sparse layer's `values` parameter; None for any other tensor."""
    return _patterns.get(parameter)


def bind_pattern(parameter: Tensor, pattern: Pattern) -> None:
    """Note that `parameter` holds the values of `pattern`, until it is bound again or dies."""
    _patterns[parameter] = pattern


def carry(tensor: Tensor, old: Pattern, new: Pattern) -> Tensor:
    """`tensor`, one element per position of `old`, moved to `new`: survivors keep theirs, grown positions get 0.

    Shape:
        tensor (old.nnz,); result (new.nnz,).
    """
    source = old.locate(new)
    survivors = np.flatnonzero(source >= 0)  # by position, not by mask: this also works on the meta device
    to, origin = (torch.from_numpy(each).to(tensor.device) for each in (survivors, source[survivors]))
    moved = tensor.new_zeros(new.nnz)
    moved[to] = tensor.detach()[origin]
    return moved
