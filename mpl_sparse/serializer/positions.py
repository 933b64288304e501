"""Positions as bytes, in the smallest of a closed set of codings. The core does the work; FORMAT.md defines the bytes.

Positions are int64 (nnz,), strictly increasing, in [0, numel).
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional

import numpy as np

from .. import _core
from ..pattern import CARRIED_BY_DLPACK
from .errors import BadPositions

__all__ = ["BLOCK", "CHUNK", "FULL", "KINDS", "MAX_NUMEL", "MAX_SHIFT", "Coding", "Encoder", "chunks"]

MAX_NUMEL = 2**62  # sums of two positions fit in int64
MAX_SHIFT = 56  # a remainder and the bits before it in its byte fit in 64
BLOCK = 32768  # gaps between two restart points
CHUNK = 32768  # positions at a time: what is made of them on the way stays in the cache

KINDS = ("full", "bitmap", "huffman", "golomb")


class Coding(NamedTuple):
    """How positions are encoded: `kind`, one of KINDS; `zeros`, whether those that are *not* stored are encoded;
    `divisor` of the gaps for "golomb", 2^b or 3 * 2^b, else 0."""

    kind: str
    zeros: bool = False
    divisor: int = 0


FULL = Coding("full")


class Encoder:
    """Positions about to be encoded, in the coding of the fewest bytes unless one is given.

    Attributes:
        coding: that coding.
        nbytes: how many bytes it takes.
    """

    def __init__(self, positions: np.ndarray, numel: int, coding: Optional[Coding] = None) -> None:
        self._encoder = None
        self.coding, self.nbytes = FULL, 0
        if positions.size != numel or coding not in (None, FULL):
            positions = np.require(positions, np.int64, CARRIED_BY_DLPACK)
            self._encoder = _core.PositionEncoder(positions, numel, *(coding or ()))
            self.coding, self.nbytes = Coding(*self._encoder.coding), self._encoder.size

    def encode(self) -> np.ndarray:
        """The bytes, uint8 1-D."""
        packed = np.empty(self.nbytes, np.uint8)
        if self._encoder is not None:
            self._encoder.write(packed)
        return packed


def chunks(packed: np.ndarray, nnz: int, numel: int, coding: Coding) -> Iterator[np.ndarray]:
    """The positions that `packed`, uint8 1-D, holds, some thousands at a time; each array is overwritten by the next.

    Nothing of `packed` is trusted. It takes no memory but a chunk, and work in proportion to its bytes and nnz.

    Raises:
        BadPositions: it is not exactly what is made of nnz positions below numel. Perhaps only in place of the last
            chunk: what was made of the others is then to be thrown away.
    """
    if coding == FULL:
        for start in range(0, numel, CHUNK):
            yield np.arange(start, min(start + CHUNK, numel), dtype=np.int64)
        return
    chunk = np.empty(min(CHUNK, nnz), np.int64)
    try:
        decoder = _core.PositionDecoder(np.require(packed, np.uint8, CARRIED_BY_DLPACK), nnz, numel, *coding)
        while count := decoder.read(chunk):
            yield chunk[:count]
    except ValueError as error:
        raise BadPositions(str(error)) from None
