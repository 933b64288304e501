"""safetensors checkpoints of any program: a header of JSON, then the bytes of dense tensors.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, Dict, Iterable, List, Tuple

import numpy as np

from ..container import ALIGNMENT, MAX_HEADER, are_sizes, parse_json
from ..dtypes import DTYPES
from ..errors import BadHeader, BadValues, FileError, Truncated
from ..positions import MAX_NUMEL
from ..record import MAX_RANK, check_json
from ..tensors import Content, Planned
from .bitmask import unpacked

__all__ = ["read", "write"]


def read(data: memoryview) -> Dict[str, Planned]:
    """The tensors of a safetensors file, by name."""
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise Truncated(f"the file has {len(data)} bytes, fewer than its header of {length} bytes needs")
    header = parse_json(bytes(data[8 : 8 + length]))
    check_json(isinstance(header, dict), "the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    check_json(isinstance(metadata, dict) and all(type(text) is str for text in metadata.values()), "bad metadata")
    places = {name: _place(name, entry) for name, entry in header.items()}
    at = 0
    for name, (begin, stop) in sorted(places.items(), key=lambda item: item[1]):
        check_json(begin == at, f"arrays overlap or leave a gap at byte {at}", name)
        at = stop
    if at != len(data) - 8 - length:
        raise Truncated(f"the file has {len(data) - 8 - length} bytes of data, its header tells of {at}")
    content = np.frombuffer(data, np.uint8)[8 + length :]
    tensors = {
        name: _planned(name, entry["dtype"], tuple(entry["shape"]), content[slice(*places[name])])
        for name, entry in header.items()
    }
    return unpacked(tensors)


def write(tensors: Iterable[Tuple[str, Content]]) -> List[Any]:
    """The bytes of a plain safetensors file of dense tensors, as a list of buffers.

    Raises:
        FileError: safetensors has no such elements, or no such name.
        ValueError: a name stands twice, or the header passes the limit of 100 MB.
    """
    entries = []
    for name, content in tensors:
        if content.dtype == "C128":
            raise FileError("safetensors has no elements of type C128", name)
        if name == "__metadata__" or name != name.encode("utf-8", "replace").decode():
            raise FileError("safetensors has no such name for a tensor", name)
        assert content.bits is not None
        entries.append((name, content.dtype, content.shape, content.bits.view(np.uint8).data))
    entries.sort(key=lambda entry: -DTYPES[entry[1]].itemsize)  # every array is aligned to its own elements
    header: Dict[str, Any] = {}
    at = 0
    for name, dtype, shape, buffer in entries:
        if name in header:
            raise ValueError(f"two tensors have the name {name!r}")
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + buffer.nbytes]}
        at += buffer.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(len(encoded) + 8) % ALIGNMENT)
    if len(encoded) > MAX_HEADER:
        raise ValueError(f"the tensors need a header of {len(encoded)} bytes, safetensors allows {MAX_HEADER}")
    return [struct.pack("<Q", len(encoded)) + encoded, *(buffer for *_, buffer in entries)]


def _place(name: str, entry: Any) -> Tuple[int, int]:
    """Where a tensor stands: [begin, end), as large as its shape and dtype say."""
    fits = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    fits = fits and are_sizes(entry["shape"]) and are_sizes(entry["data_offsets"]) and len(entry["data_offsets"]) == 2
    check_json(fits and type(entry["dtype"]) is str, f"it is described by {str(entry)[:80]}", name)
    numel = math.prod(entry["shape"]) if len(entry["shape"]) <= MAX_RANK else MAX_NUMEL + 1
    check_json(numel <= MAX_NUMEL, f"its shape is {str(entry['shape'])[:80]}", name)
    if entry["dtype"] not in DTYPES:
        raise FileError(f"elements of type {entry['dtype'][:20]!r} are not supported", name)
    begin, stop = entry["data_offsets"]
    if stop - begin != numel * DTYPES[entry["dtype"]].itemsize:
        raise BadHeader(f"it has {stop - begin} bytes, of {entry['dtype']} and shape {entry['shape']}", name)
    return begin, stop


def _planned(name: str, dtype: str, shape: Tuple[int, ...], data: np.ndarray) -> Planned:
    def content() -> Content:
        bits = data.view(DTYPES[dtype].bits)
        if dtype == "BOOL" and bits.size and int(bits.max()) > 1:
            raise BadValues("a bool is neither 0 nor 1")
        return Content("dense", "torch", dtype, shape, None, bits)

    return Planned(name, math.prod(shape), content)
