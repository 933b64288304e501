"""Values as bytes, compressed if that was asked for: zstd of all elements' first bytes, all second bytes, ..."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np

from .errors import BadValues, MissingLibrary

__all__ = ["compressed", "decompressed", "find_zstd"]


def find_zstd() -> Any:
    """The module that has zstd: `zstandard`, or Python's own from 3.14 on.

    Raises:
        MissingLibrary: there is neither.
    """
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module("zstandard")
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module("compression.zstd")
    raise MissingLibrary("zstd-compressed values need a library that is not installed: pip install zstandard")


def compressed(bits: np.ndarray) -> np.ndarray:
    """uint8: the elements' bytes, shuffled and compressed."""
    shuffled = np.ascontiguousarray(bits.view(np.uint8).reshape(bits.size, -1).T).tobytes()
    zstd = find_zstd()
    packed = (
        zstd.ZstdCompressor(level=3).compress(shuffled) if _is_zstandard(zstd) else zstd.compress(shuffled, level=3)
    )
    return np.frombuffer(packed, np.uint8)


def decompressed(packed: np.ndarray, count: int, dtype: str) -> np.ndarray:
    """The bits of `count` elements; never makes more bytes than they have, whatever `packed` says.

    Raises:
        BadValues: it is not what `compressed` made of so many elements.
        MissingLibrary: there is no zstd.
    """
    zstd, itemsize = find_zstd(), np.dtype(dtype).itemsize
    size = count * itemsize
    try:
        if _is_zstandard(zstd):
            with zstd.ZstdDecompressor().stream_reader(io.BytesIO(packed.tobytes())) as reader:
                plain = reader.read(size + 1)
        else:
            plain = zstd.ZstdDecompressor().decompress(packed, max_length=size + 1)
    except zstd.ZstdError as error:
        raise BadValues(f"its values do not decompress: {error}") from None
    if len(plain) != size:
        raise BadValues(f"its values decompress to {len(plain)} bytes or more, not {size}")
    return np.frombuffer(plain, np.uint8).reshape(itemsize, count).T.copy().reshape(-1).view(dtype)


def _is_zstandard(zstd: Any) -> bool:
    return zstd.__name__ == "zstandard"
