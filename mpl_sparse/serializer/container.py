"""The file: a safetensors file with a sealed header. FORMAT.md defines it."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple, Union

import numpy as np

from .dtypes import DTYPES
from .errors import BadHeader, ChecksumMismatch, NotOurs, Truncated, UnsupportedVersion
from .record import MAX_RANK, Arrays, Record, check_json

__all__ = ["ALIGNMENT", "MAX_HEADER", "File", "are_sizes", "parse_json", "read", "write"]

VERSION = 1
BEGIN = b'{"__metadata__":{"format":"mpl-sparse/'
CRC_FIELD = b'"crc32":"'
MAX_HEADER = 100_000_000  # safetensors' own limit
ALIGNMENT = 64  # of the data: a cache line
ITEMSIZES = {dtype.stored: np.dtype(dtype.bits).itemsize // (2 if dtype.parts else 1) for dtype in DTYPES.values()}


class File(NamedTuple):
    """A file that was opened: its header is checked, its arrays are not yet."""

    records: List[Record]
    tree: Any  # the saved object, with numbers of records in the places of tensors
    data: np.ndarray  # uint8: all bytes after the header
    places: Dict[str, Tuple[int, int]]  # of each array: [begin, end)
    header_bytes: int

    def arrays(self, record: Record) -> Arrays:
        """The arrays of a tensor, read-only, by the end of their names.

        Raises:
            ChecksumMismatch: one of them is not what was written.
        """
        arrays = {}
        for end, crc in record.crc32.items():
            begin, stop = self.places[record.name + end]
            array = self.data[begin:stop]
            if zlib.crc32(array.data) != crc:
                raise ChecksumMismatch(f"the bytes of its array {record.name + end!r} have changed", record.name)
            arrays[end] = array
        return arrays

    def nbytes(self, record: Record) -> int:
        """The bytes of the tensor's arrays."""
        places = (self.places[record.name + end] for end in record.crc32)
        return sum(stop - begin for begin, stop in places)


def write(tensors: Iterable[Tuple[Record, Arrays]], tree: Any) -> List[Any]:
    """The bytes of a file, as a list of buffers. The records get the checksums of their arrays, by end of name.

    Raises:
        ValueError: the header passes safetensors' limit of 100 MB.
    """
    records, entries = [], []
    for record, arrays in tensors:
        buffers = {end: np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for end, array in arrays.items()}
        record = record._replace(crc32={end: zlib.crc32(buffer) for end, buffer in buffers.items()})
        records.append(record.to_json())
        for end, buffer in buffers.items():
            dtype, shape = record.array(end, arrays[end].shape)
            entries.append((record.name + end, dtype, shape, buffer))
    entries.sort(key=lambda entry: -ITEMSIZES[entry[1]])  # stable: every array is aligned to its own elements
    metadata = {
        "format": f"mpl-sparse/{VERSION}",
        "oldest_reader": str(VERSION),
        "crc32": "0" * 8,
        "tensors": _dumps(records),
        "object": _dumps(tree),
    }
    header: Dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, dtype, shape, buffer in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + buffer.nbytes]}
        offset += buffer.nbytes
    encoded = _dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % ALIGNMENT)
    if len(encoded) > MAX_HEADER:
        raise ValueError(f"obj needs a header of {len(encoded)} bytes, safetensors allows {MAX_HEADER}")
    return [struct.pack("<Q", len(encoded)) + _sealed(encoded), *(buffer for *_, buffer in entries)]


def read(buffer: Any) -> File:
    """Check a file's header, and take its arrays apart without reading them.

    Args:
        buffer: the bytes of the whole file, which the result keeps.

    Raises:
        NotOurs, Truncated, ChecksumMismatch, UnsupportedVersion, BadHeader: see there.
        TypeError: `buffer` is nothing like bytes.
    """
    try:
        data = np.frombuffer(memoryview(buffer).cast("B"), np.uint8) if len(buffer) else np.empty(0, np.uint8)
    except TypeError:
        raise TypeError(f"data must be bytes, or a file opened in binary mode, got {type(buffer).__name__}") from None
    data.flags.writeable = False  # a bytearray's, too: whose memory it is
    if data.size < 8:
        raise Truncated(f"the file has {data.size} bytes, fewer than the 8 of a safetensors file")
    length = int(data[:8].view("<u8")[0])
    if data[8 : 8 + len(BEGIN)].tobytes() != BEGIN:
        raise NotOurs("the file does not begin as mpl_sparse.save begins it")
    if length > min(MAX_HEADER, data.size - 8):
        raise Truncated(f"the file has {data.size} bytes, fewer than its header of {length} bytes needs")
    header = data[8 : 8 + length].tobytes()
    if _sealed(header) != header:
        raise ChecksumMismatch("the header has changed since it was written")
    plain = parse_json(header.rstrip(b" "))
    metadata = plain.pop("__metadata__")
    check_json(isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()), "bad metadata")
    oldest = metadata.get("oldest_reader", "")
    if not re.fullmatch("[0-9]{1,9}", oldest) or int(oldest) > VERSION:
        raise UnsupportedVersion(f"the file needs a reader of version {oldest[:20]!r}, this one is {VERSION}")
    check_json({"tensors", "object"} <= metadata.keys(), "metadata are missing")
    tensors = parse_json(metadata["tensors"])
    check_json(isinstance(tensors, list), "tensors is no list")
    records = [Record.from_json(tensor) for tensor in tensors]
    places = _places(records, plain, data.size - 8 - length)
    return File(records, parse_json(metadata["object"]), data[8 + length :], places, 8 + length)


def _places(records: List[Record], entries: Dict[str, Any], size: int) -> Dict[str, Tuple[int, int]]:
    """Where each array stands; every array belongs to one record, and they fill the file without gaps."""
    owners = {record.name + end: (record, end) for record in records for end in record.crc32}
    check_json(len(owners) == sum(len(record.crc32) for record in records), "two tensors have one array")
    check_json(len({record.name for record in records}) == len(records), "two tensors have one name")
    check_json(owners.keys() == entries.keys(), "the tensors' arrays are not those of the file")
    places = {}
    for name, entry in entries.items():
        record, end = owners[name]
        if not _is_entry(entry):
            raise BadHeader(f"the array {name!r} is described by {str(entry)[:80]}", record.name)
        dtype, shape = record.array(end, entry["shape"])
        begin, stop = entry["data_offsets"]
        nbytes = ITEMSIZES[dtype] * math.prod(shape)
        if entry["dtype"] != dtype or tuple(entry["shape"]) != shape or stop - begin != nbytes:
            raise BadHeader(f"the array {name!r} is described by {str(entry)[:80]}, not {dtype} {shape}", record.name)
        places[name] = begin, stop
    at = 0
    for begin, stop in sorted(places.values()):
        if begin != at:
            raise BadHeader(f"arrays overlap or leave a gap at byte {at}")
        at = stop
    if at != size:
        raise Truncated(f"the file has {size} bytes of data, its header tells of {at}")
    for record in records:
        if record.has_values and record.nnz and record.values_array not in record.crc32:
            raise BadHeader("it has no values", record.name)
    return places


def _is_entry(entry: Any) -> bool:
    """Whether this is how a header of safetensors describes an array."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    return are_sizes(shape) and len(shape) <= MAX_RANK + 1 and are_sizes(offsets) and len(offsets) == 2


def are_sizes(sizes: Any) -> bool:
    """Whether this is a list of integers of 0 to 2^63 - 1."""
    return isinstance(sizes, list) and all(type(size) is int and 0 <= size < 2**63 for size in sizes)


def _sealed(header: bytes) -> bytes:
    """The header with its own CRC-32, taken with zeros in the CRC's place, over its length and itself."""
    at = header.find(CRC_FIELD) + len(CRC_FIELD)
    blank = header[:at] + b"0" * 8 + header[at + 8 :]
    crc = zlib.crc32(blank, zlib.crc32(struct.pack("<Q", len(header))))
    return header[:at] + b"%08x" % crc + header[at + 8 :]


def _dumps(plain: Any) -> str:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def parse_json(text: Union[bytes, str]) -> Any:
    """What the JSON says.

    Raises:
        BadHeader: it is none, or has a name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadHeader(f"the header is not the JSON that a writer writes: {str(error)[:200]}") from None


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
