"""Values as bytes, compressed if that was asked for: zstd of all elements' first bytes, all second bytes, ..."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np

from .errors import BadValues, MissingLibrary

__all__ = ["compressed", "decompressed", "find_zstd"]

CHUNK = 1 << 20  # bytes to decompress at a time
MAX_WINDOW = 1 << 23  # what a decoder of RFC 8878 should support; a frame could ask for gigabytes


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
    shuffled = np.ascontiguousarray(bits.view(np.uint8).reshape(bits.size, -1).T).reshape(-1).data
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
    planes = np.empty((count, itemsize), np.uint8)
    size, filled = count * itemsize, 0
    try:
        with _reader(zstd, packed) as reader:
            for plane in range(itemsize):
                for start in range(0, count, CHUNK):
                    part = reader.read(min(CHUNK, count - start))
                    filled += len(part)
                    if len(part) < min(CHUNK, count - start):
                        raise BadValues(f"its values decompress to {filled} bytes, not {size}")
                    planes[start : start + CHUNK, plane] = np.frombuffer(part, np.uint8)
            if reader.read(1):
                raise BadValues(f"its values decompress to more than {size} bytes")
    except (zstd.ZstdError, EOFError) as error:
        raise BadValues(f"its values do not decompress: {error}") from None
    return planes.reshape(-1).view(dtype)


def _reader(zstd: Any, packed: np.ndarray) -> Any:
    """A file object of the one frame, decompressed. It takes no more memory than a window of MAX_WINDOW bytes."""
    if _is_zstandard(zstd):
        return zstd.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed.data)
    options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW.bit_length() - 1}
    return zstd.ZstdFile(io.BytesIO(packed.data), options=options)


def _is_zstandard(zstd: Any) -> bool:
    return zstd.__name__ == "zstandard"
