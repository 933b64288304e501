"""The containers that hold a pickle: torch.save's archive, torch.save's stream of before 1.6, a plain pickle.

The archive is a zip file: data.pkl, and a file data/KEY for each storage, whose bytes it does not compress. The stream
is five pickles (a number, a version, what the machine was like, the object, the keys of its storages), then each
storage after its number of elements. The original library pickles an object plainly, and each storage as such a
stream within.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any, Callable, Dict, Tuple

import numpy as np

from ..dtypes import DTYPES
from ..errors import BadArchive, BadPickle, ChecksumMismatch, FileError, ForbiddenPickle, Truncated, UnknownFormat
from .rebuild import Rebuilder, is_known
from .stream import WHOLE_MODULE, Call, Global, Persistent, follow, in_protocol_2
from .strided import STORAGES, Storage

__all__ = ["read_archive", "read_stream"]

MAGIC = 0x1950A86A20F9469CFC6C
MAX_MEMBERS = 1_000_000
LOCAL_HEADER = 30  # bytes before a member's name


def read_archive(data: memoryview) -> Any:
    """The object of a file of torch.save; a `Planned` in the place of each tensor."""
    members = _members(data)
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise UnknownFormat("a zip archive that torch.save did not write: it has no data.pkl")
    folder = pickles[0][: -len("data.pkl")]
    if f"{folder}constants.pkl" in members:
        raise ForbiddenPickle(
            "a TorchScript archive, which is code: if you trust it, load it with torch.jit.load, and save its "
            "state_dict()"
        )
    if f"{folder}byteorder" in members and bytes(members[f"{folder}byteorder"]()) != b"little":
        raise FileError("it was written on a big-endian machine, which is not supported")
    tree, _ = follow(members[pickles[0]](), 0, is_known)
    found: Dict[str, Storage] = {}

    def storage(key: Any) -> Storage:
        dtype, name, size = _described(key)
        if name not in found:
            if f"{folder}data/{name}" not in members:
                raise BadArchive(f"the storage {name[:80]!r} is missing")
            content = np.frombuffer(members[f"{folder}data/{name}"](), np.uint8)
            found[name] = Storage(name, dtype, content)
        if found[name].dtype != dtype or found[name].data.size != size:
            raise BadArchive(f"the storage {name[:80]!r} has {found[name].data.size} bytes, not {size} of {dtype}")
        return found[name]

    return Rebuilder(storage, len(data)).rebuild(tree)


def _members(data: memoryview) -> Dict[str, Callable[[], memoryview]]:
    """What reads each member of the archive. Nothing is decompressed: a member has the bytes that the file has."""
    try:
        with zipfile.ZipFile(_View(data)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, OSError, struct.error, EOFError) as error:
        raise BadArchive(f"the zip archive is damaged: {str(error)[:200]}") from None
    if len({info.filename for info in infos}) != len(infos) or len(infos) > MAX_MEMBERS:
        raise BadArchive("the zip archive has a member twice, or a million of them")
    if sum(info.file_size for info in infos) > len(data):
        raise BadArchive(f"the members of the zip archive are larger than its {len(data)} bytes")
    return {info.filename: _reader(data, info) for info in infos}


def _reader(data: memoryview, info: zipfile.ZipInfo) -> Callable[[], memoryview]:
    def read() -> memoryview:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise BadArchive(f"the member {info.filename[:80]!r} is compressed, which torch.save never does")
        header = data[info.header_offset : info.header_offset + LOCAL_HEADER] if info.header_offset >= 0 else b""
        if len(header) != LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise BadArchive(f"the member {info.filename[:80]!r} is not where the archive says")
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        begin = info.header_offset + LOCAL_HEADER + name_size + extra_size
        content = data[begin : begin + info.file_size]
        if len(content) != info.file_size:
            raise BadArchive(f"the member {info.filename[:80]!r} is cut off")
        if info.CRC and zlib.crc32(content) != info.CRC:  # torch can be told to write none: 0
            raise ChecksumMismatch(f"the member {info.filename[:80]!r} has changed since it was written")
        return content

    return read


class _View(io.RawIOBase):
    """A file of these bytes, which are not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._data))[whence]
        if at < 0:
            raise OSError("a place before the beginning")
        self._at = at
        return at

    def read(self, size: Any = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else min(self._at + size, len(self._data))
        piece = bytes(self._data[self._at : end])
        self._at += len(piece)
        return piece


def read_stream(data: memoryview) -> Any:
    """The object of an old file of torch.save, or of a pickle of the original library."""
    first, _ = follow(data, 0, is_known)
    if first == MAGIC:
        tree, storages = _read_old(data, is_known)
        return Rebuilder(storages, len(data)).rebuild(tree)
    return Rebuilder(_pickled_storage, len(data)).rebuild(first)


def _pickled_storage(node: Any) -> Storage:
    """The storage that a call of torch.storage._load_from_bytes would make."""
    content = in_protocol_2(node.arguments[0]) if type(node) is Call else None
    if not isinstance(content, (bytes, memoryview)):
        raise BadPickle("a storage is no bytes")
    # within are a storage's class and numbers: no tensor, and no storage that is pickled once more
    tree, storages = _read_old(memoryview(content), STORAGES.__contains__)
    if type(tree) is not Persistent:
        raise BadPickle("the bytes of a storage hold something else")
    return storages(tree.key)._replace(key=id(node))


def _read_old(data: memoryview, allowed: Callable[[str], bool]) -> Tuple[Any, Callable[[Any], Storage]]:
    """(the object, what finds its storages) of torch.save's stream."""
    magic, at = follow(data, 0, _nothing)
    version, at = follow(data, at, _nothing)
    machine, at = follow(data, at, _nothing)
    if magic != MAGIC or version != 1001:
        raise BadPickle(
            f"it is none of torch.save, or of its version {version if type(version) is int else type(version).__name__}"
        )
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise FileError("it was written on a big-endian machine, which is not supported")
    tree, at = follow(data, at, allowed)
    keys, at = follow(data, at, _nothing)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise BadPickle("the keys of its storages are no strings")
    begins = {}
    sizes = _sizes(tree)
    for key in keys:
        if key not in sizes or key in begins or len(data) - at < 8:
            raise Truncated(f"the storage {key[:80]!r} is missing, or stands twice")
        begins[key] = at + 8
        count = struct.unpack("<q", data[at : at + 8])[0]
        at += 8 + sizes[key]
        if at > len(data):
            raise Truncated(f"the storage {key[:80]!r} is cut off")
        if count < 0 or sizes[key] % max(count, 1) or (sizes[key] and not count):
            raise BadPickle(f"the storage {key[:80]!r} has {count} elements in {sizes[key]} bytes")
    if at != len(data):
        raise Truncated(f"{len(data) - at} bytes follow its last storage")

    def storage(key: Any) -> Storage:
        dtype, name, size = _described(key)
        if name not in begins or sizes[name] != size:
            raise BadPickle(f"the storage {name[:80]!r} is missing, or has two sizes")
        content = data[begins[name] : begins[name] + size]
        return Storage(name, dtype, np.frombuffer(content, np.uint8))

    return tree, storage


def _nothing(name: str) -> bool:
    return False


def _sizes(tree: Any) -> Dict[str, int]:
    """The bytes of each storage that the object has, by key."""
    sizes: Dict[str, int] = {}
    queue, seen = [tree], set()
    while queue:
        node = queue.pop()
        if type(node) is Persistent:
            _, name, size = _described(node.key)
            if sizes.setdefault(name, size) != size:
                raise BadPickle(f"the storage {name[:80]!r} has two sizes")
        if id(node) in seen or isinstance(node, (str, int, float, bytes, memoryview, Global, Persistent)):
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            queue += node.values()
        elif isinstance(node, (list, tuple)):
            queue += node
        elif type(node) is Call:
            queue += [*node.arguments, node.state]
    return sizes


def _described(key: Any) -> Tuple[str, str, int]:
    """(dtype, name, bytes) of a storage, from ("storage", class, name, place[, elements[, no view]])."""
    if type(key) is tuple and key[:1] == ("module",):
        raise ForbiddenPickle(WHOLE_MODULE)
    fits = type(key) is tuple and len(key) in (5, 6) and key[0] == "storage" and type(key[1]) is Global
    if not fits or key[1].name not in STORAGES or type(key[2]) is not str or type(key[4]) is not int or key[4] < 0:
        raise BadPickle(f"a storage is described by a {type(key).__name__}")
    if key[5:] not in ((), (None,)):
        raise FileError("a storage that is a view of another, as before PyTorch 0.4, is not supported")
    dtype = STORAGES[key[1].name]
    return dtype, key[2], key[4] * (DTYPES[dtype].itemsize if dtype else 1)
