"""Files of the format mpl-sparse/1 for the tests: golden ones, and hostile ones whose checksums are in order.

`python tests/file_samples.py` writes them again, into tests/serializer/golden and tests/serializer/hostile.
"""

from __future__ import annotations

import json
import pathlib
import zlib

import numpy as np

from mpl_sparse import Pattern, dumps
from mpl_sparse.serializer import container

FOLDER = pathlib.Path(__file__).parent / "serializer"


def mask(rows, cols, density):
    """A bool mask of pseudo-random bits, the same everywhere (the finalizer of MurmurHash3)."""
    x = np.arange(1, rows * cols + 1, dtype=np.uint32)
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        x ^= x >> np.uint32(15)
        x *= np.uint32(factor)
    return (x >> np.uint32(8) < density * 2**24).reshape(rows, cols)


def pattern(*arguments):
    return Pattern.from_mask(mask(*arguments))


KNOWN = pattern(20, 30, 0.1)

# name: (object, options of dumps, coding of the first tensor)
GOLDEN = {
    "full": ({"a": np.arange(1, 7, dtype=np.float32).reshape(2, 3), "b": [1, 2.5, None, "text"]}, {}, "full"),
    "bitmap": (pattern(60, 50, 0.5), {}, "bitmap"),
    "huffman": (pattern(60, 100, 0.36), {}, "huffman"),
    "huffman_zeros": (pattern(60, 101, 0.64), {}, "huffman"),
    "golomb": (pattern(120, 100, 0.028), {}, "golomb"),
    "golomb_ternary": (pattern(180, 100, 0.1134), {}, "golomb"),
    "golomb_zeros": (pattern(120, 100, 0.972), {}, "golomb"),
    "golomb_restart": (pattern(600, 600, 0.095), {}, "golomb"),
    "dense_with_zeros": (np.where(mask(30, 40, 0.1), np.arange(1200, dtype=np.int64).reshape(30, 40), 0), {}, "golomb"),
    "pair": ((KNOWN, np.arange(KNOWN.nnz, dtype=np.int16)), {}, "golomb"),
    "ref": ((KNOWN, np.arange(KNOWN.nnz, dtype=np.int16)), {"known": [KNOWN]}, "ref"),
    "rounded": (np.linspace(-1, 1, 9, dtype=np.float32), {"dtype": "bfloat16"}, "full"),
}


def rebuilt(data, change):
    """The file after `change` of its header, a dict whose metadata are parsed; its seal is in order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    plain = {
        **header,
        "__metadata__": {**metadata, **{key: json.loads(metadata[key]) for key in ("tensors", "object")}},
    }
    change(plain)
    for key in ("tensors", "object"):
        value = plain["__metadata__"].get(key)
        if value is not None:
            plain["__metadata__"][key] = json.dumps(value, separators=(",", ":"))
    rest = data[8 + length :] if len(plain) > 1 else b""  # no arrays, no data
    return sealed(json.dumps(plain, separators=(",", ":")).encode(), rest)


def sealed(header, rest):
    """A file of this header, the CRC in it made right, and these data."""
    header += b" " * (-(len(header) + 8) % 64)
    return len(header).to_bytes(8, "little") + container._sealed(header) + rest


def hostile():
    """(name of the error, what is wrong, file) of each."""
    dense = dumps({"a": np.arange(4, dtype=np.float32), "b": np.arange(8, dtype=np.float32)})
    coded = dumps(GOLDEN["golomb"][0])
    flags = dumps(np.array([True, False]))

    def record(data, **fields):
        return rebuilt(data, lambda plain: plain["__metadata__"]["tensors"][0].update(fields))

    def entry(name, **fields):
        return rebuilt(dense, lambda plain: plain[name].update(fields))

    def tree(node, data=dense):
        return rebuilt(data, lambda plain: plain["__metadata__"].update(object=node))

    def metadata(**fields):
        return rebuilt(dense, lambda plain: plain["__metadata__"].update(fields))

    length = int.from_bytes(dense[:8], "little")
    text = dense[8 : 8 + length].rstrip()
    yield "Truncated", "empty", b""
    yield "Truncated", "only a length", dense[:8][:7]
    yield "NotOurs", "only a length and nothing else", dense[:8]
    yield "Truncated", "header longer than the file", b"\xff" * 7 + b"\x7f" + dense[8:]
    yield "Truncated", "data cut", dense[:-1]
    yield "Truncated", "data longer", dense + b"\0"
    yield "NotOurs", "pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR." + bytes(60)
    yield "ChecksumMismatch", "header changed", dense[:60] + b"9" + dense[61:]
    yield "ChecksumMismatch", "data changed", dense[:-1] + b"\x01"
    yield "UnsupportedVersion", "for a newer reader", metadata(oldest_reader="2")
    yield "UnsupportedVersion", "for no reader", metadata(oldest_reader="-1")
    yield "UnsupportedVersion", "for a reader of five thousand digits", metadata(oldest_reader="9" * 5000)
    yield (
        "BadHeader",
        "an object of half a character",
        sealed(text.replace(b'"object":"', b'"object":"\\ud800'), dense[8 + length :]),
    )
    yield "BadHeader", "not JSON", sealed(text[:-1], dense[8 + length :])
    yield (
        "BadHeader",
        "nested a hundred thousand deep",
        sealed(text[:-1] + b',"x":' + b"[" * 10**5 + b"}", dense[8 + length :]),
    )
    yield "BadHeader", "NaN", sealed(text.replace(b'"shape":[4]', b'"shape":[NaN]'), dense[8 + length :])
    yield "BadHeader", "a name twice", sealed(text[:-1] + b',"a":' + text.partition(b'"a":')[2], dense[8 + length :])
    yield "BadHeader", "metadata missing", rebuilt(dense, lambda plain: plain["__metadata__"].pop("object"))
    yield "BadHeader", "an array nobody has", rebuilt(dense, lambda plain: plain.update(c=plain["a"]))
    yield "BadHeader", "an array missing", rebuilt(dense, lambda plain: plain.pop("b"))
    yield "BadHeader", "arrays that overlap", entry("b", data_offsets=[0, 32])
    yield "BadHeader", "a negative offset", entry("a", data_offsets=[-16, 0])
    yield "BadHeader", "offsets backwards", entry("a", data_offsets=[16, 0])
    yield "BadHeader", "an offset that is no number", entry("a", data_offsets=["0", 16])
    yield "BadHeader", "a shape that does not fit its bytes", entry("a", shape=[5])
    yield "BadHeader", "a huge shape", entry("a", shape=[2**62, 2**62])
    yield "BadHeader", "another dtype", entry("a", dtype="I32")
    yield "BadHeader", "a dtype that is none", entry("a", dtype="os.system")
    yield "BadHeader", "a record of another shape", record(dense, shape=[2, 2])
    yield "BadHeader", "a record of another dtype", record(dense, dtype="F64")
    yield "BadHeader", "a record of an unknown dtype", record(dense, dtype="object")
    yield "BadHeader", "a record of a huge shape", record(coded, shape=[2**40, 2**40])
    yield "BadHeader", "a record of a negative shape", record(coded, shape=[-1, 100])
    yield "BadHeader", "a shape of a thousand numbers", record(coded, shape=[1] * 1000)
    yield "BadHeader", "a record of too many nonzeros", record(coded, nnz=12_001)
    yield "BadHeader", "a record of negative nonzeros", record(coded, nnz=-1)
    yield "BadHeader", "a record of true nonzeros", record(coded, nnz=True)
    yield "BadHeader", "an unknown coding", record(coded, coding="pickle")
    yield "BadHeader", "an unknown form", record(coded, form="module")
    yield "BadHeader", "an unknown library", record(coded, library="os")
    yield "BadHeader", "an unknown field", record(coded, call="os.system")
    yield "BadHeader", "a divisor of 0", record(coded, divisor=0)
    yield "BadHeader", "a divisor of 5", record(coded, divisor=5)
    yield "BadHeader", "a divisor of 2 to the 62", record(coded, divisor=2**62)
    yield "BadHeader", "zeros that are fewer than the rest", record(coded, zeros=True)
    yield (
        "BadHeader",
        "a gradient of integers",
        record(dumps(np.arange(3, dtype=np.int64)), library="torch", requires_grad=True),
    )
    yield "BadHeader", "two records of one name", record(dense, name="b")
    yield (
        "BadHeader",
        "a record that is a list",
        rebuilt(dense, lambda plain: plain["__metadata__"].update(tensors=[[]])),
    )
    yield "BadPositions", "another divisor", record(coded, divisor=64)
    yield "BadPositions", "a nonzero more", record(coded, nnz=pattern(120, 100, 0.028).nnz + 1)
    yield "BadPositions", "a smaller shape", record(coded, shape=[60, 100])
    yield "BadPositions", "positions without arrays", rebuilt(coded, _without_arrays)
    yield "BadValues", "a bool of 2", _with_byte(flags, 2)
    yield "TooLarge", "a few bytes that make 2 to the 40 zeros", _bomb()
    yield "UnknownPattern", "a pattern nobody knows", dumps(GOLDEN["ref"][0], known=[KNOWN])
    yield "BadHeader", "an object that is a number of no tensor", tree(["tensor", 7])
    yield "BadHeader", "an object that is a negative number", tree(["tensor", -1])
    yield "BadHeader", "an object of an unknown word", tree(["call", "os.system", "true"])
    yield "BadHeader", "an object that is a JSON object", tree({"__reduce__": "os.system"})
    yield "BadHeader", "an object that leaves tensors out", tree(["tensor", 0])
    yield "BadHeader", "an object of a part of what is no layer", tree(["part", 0, "values"])
    yield "BadHeader", "a dict with a key twice", tree(["dict", [[1, ["tensor", 0]], [1, ["tensor", 1]]]])
    yield "BadHeader", "a dict with a list as a key", tree(["dict", [[["list"], 1]]])
    yield "BadHeader", "a dict with a tensor in a key", tree(["dict", [[["tuple", ["tensor", 0]], ["tensor", 1]]]])
    yield "BadHeader", "a dict without values", tree(["dict", [[1]]])
    yield "BadHeader", "a dict of strings", tree(["dict", ["ab"]])
    yield "BadHeader", "a float of too few bits", tree(["float", "00"])
    yield "BadHeader", "a tree a thousand deep", tree(_nested(500))
    yield "BadHeader", "a model of too few words", tree(["model", "conv2"])


def _nested(depth):
    node = 1
    for _ in range(depth):
        node = ["list", node]
    return node


def _without_arrays(plain):
    plain["__metadata__"]["tensors"][0]["crc32"] = {}
    for name in [name for name in plain if name != "__metadata__"]:
        del plain[name]


def _with_byte(data, byte):
    """The file of one array, with another last byte and its right checksum."""
    array = data[-2:-1] + bytes([byte])
    changed = rebuilt(data, lambda plain: plain["__metadata__"]["tensors"][0].update(crc32={"": zlib.crc32(array)}))
    return changed[:-2] + array


def _bomb():
    zeros = dumps(np.zeros(100_000))
    return rebuilt(zeros, lambda plain: plain["__metadata__"]["tensors"][0].update(shape=[2**40]))


def main():
    for folder in ("golden", "hostile"):
        (FOLDER / folder).mkdir(exist_ok=True)
        for old in (FOLDER / folder).glob("*.mpl"):
            old.unlink()
    for name, (obj, options, _) in GOLDEN.items():
        (FOLDER / "golden" / f"{name}.mpl").write_bytes(dumps(obj, **options))
    for error, what, data in hostile():
        (FOLDER / "hostile" / f"{error}-{what.replace(' ', '_')}.mpl").write_bytes(data)


if __name__ == "__main__":
    main()
