"""Changed files of the format mpl-sparse/1: each is refused with a FileError, or is the file of what it loads as.

`python tests/file_mutants.py --mutants 100000` tries so many of each coding; CI does so with the core built for the
address and undefined-behaviour sanitizers (ci/fuzz.sh).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import zlib
from random import Random

import file_samples

from mpl_sparse import dumps, loads
from mpl_sparse.serializer import FileError

MOST_ELEMENTS = 10**6

# Golden files by what they try: the codings of FORMAT.md, and values that are compressed.
CODINGS = {
    "full": ["full", "rounded"],
    "bitmap": ["bitmap"],
    "huffman": ["huffman", "huffman_zeros"],
    "golomb": ["golomb", "golomb_ternary", "golomb_zeros", "golomb_restart", "dense_with_zeros", "pair"],
    "ref": ["ref"],
}

WORDS = [b"0", b"-1", b"9" * 19, b"true", b"null", b'"full"', b'"golomb"', b"[]", b"{}", b"1e9", b'"torch"', b'"I64"']


def refused(data: bytes) -> bool:
    """Whether `loads` refuses the file. AssertionError if it accepts one that it would not write itself."""
    try:
        made = loads(data, known=[file_samples.KNOWN], max_elements=MOST_ELEMENTS)
    except FileError:
        return True
    again = dumps(made, known=[file_samples.KNOWN])
    assert dumps(loads(again, known=[file_samples.KNOWN]), known=[file_samples.KNOWN]) == again
    return False


def changed(data: bytes, random: Random) -> bytes:
    """Bits turned; bytes replaced, removed, put in, moved; cut anywhere."""
    start, stop = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
    piece = random.getrandbits(64).to_bytes(8, "little")[: random.randrange(1, 9)]
    kind = random.randrange(6)
    if kind == 0 and start < len(data):
        return data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :]
    if kind <= 1:
        return data[:start] + piece + data[start + len(piece) :]
    if kind == 2:
        return data[:start] + data[stop:]
    if kind == 3:
        return data[:start] + piece + data[start:]
    if kind == 4:
        return data[stop:] + data[start:stop] + data[:start]
    return data[:start]


def split(data: bytes) -> tuple[bytes, bytes]:
    """(header without its padding, data of the arrays)."""
    length = 8 + int.from_bytes(data[:8], "little")
    return data[8:length].rstrip(), data[length:]


def with_other_header(data: bytes, random: Random) -> bytes:
    """By a liar who knows CRC-32: a word of the header replaced, its checksum in order."""
    header, rest = split(data)
    at = random.randrange(len(header))
    while header[at] not in b':,["':
        at = random.randrange(len(header))
    at += 1
    stop = at + random.randrange(6)
    word = random.choice(WORDS) if random.random() < 0.6 else bytes([random.randrange(32, 127)])
    inside = b'"tensors":"' in header[:at]
    word = word.replace(b'"', b'\\"') if inside else word
    return file_samples.sealed(header[:at] + word + header[stop:], rest)


def with_other_arrays(data: bytes, random: Random) -> bytes:
    """By the same: an array changed, shorter or longer or not, all checksums and places in order."""
    header, rest = split(data)
    plain = json.loads(header)
    metadata = plain.pop("__metadata__")
    records = json.loads(metadata["tensors"])
    names = sorted(plain, key=lambda name: plain[name]["data_offsets"])
    arrays = {name: rest[slice(*plain[name]["data_offsets"])] for name in names}
    coded = [name for name in names if name.endswith(".mpl.positions")]
    victim = coded[0] if coded and random.random() < 0.8 else random.choice(names)
    array = changed(arrays[victim], random)
    if plain[victim]["dtype"] != "U8":  # as many elements as before
        array = (array + bytes(len(arrays[victim])))[: len(arrays[victim])]
    arrays[victim], at = array, 0
    for name in names:
        if plain[name]["dtype"] == "U8":
            plain[name]["shape"] = [len(arrays[name])]
        plain[name]["data_offsets"] = [at, at + len(arrays[name])]
        at += len(arrays[name])
    for record in records:
        for end in record.get("crc32", {}):
            if record["name"] + end == victim:
                record["crc32"][end] = zlib.crc32(array)
    if random.random() < 0.2 and "nnz" in records[0]:
        records[0]["nnz"] += random.randrange(-1, 2)
    metadata["tensors"] = json.dumps(records, separators=(",", ":"))
    header = json.dumps({"__metadata__": metadata, **plain}, separators=(",", ":")).encode()
    return file_samples.sealed(header, b"".join(arrays.values()))


def golden(name: str) -> bytes:
    return (file_samples.FOLDER / "golden" / f"{name}.mpl").read_bytes()


def try_mutants(name: str, count: int, seed: int) -> int:
    """How many of `count` mutants of a golden file are accepted."""
    data, random, accepted = golden(name), Random(f"{name} {seed}"), 0
    for number in range(count):
        mutant = [changed, with_other_header, with_other_arrays, with_other_arrays][number % 4](data, random)
        accepted += not refused(mutant)
    return accepted


def main() -> None:
    parser = argparse.ArgumentParser(description="Try changed files of the format mpl-sparse/1.")
    parser.add_argument("--mutants", type=int, default=100_000, help="of each coding (default: 100000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool() as pool:
        for coding, names in CODINGS.items():
            start, parts = time.perf_counter(), 10
            share = -(-options.mutants // (len(names) * parts))
            work = [(name, share, options.seed * parts + part) for name in names for part in range(parts)]
            accepted = sum(pool.starmap(try_mutants, work, chunksize=1))
            print(
                f"{coding}: {share * len(work)} mutants, {accepted} accepted, {time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
