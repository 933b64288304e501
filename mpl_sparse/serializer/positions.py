"""Positions as bytes: the smallest of a closed set of codings, in numpy.

FORMAT.md defines the bytes. The rest of the serializer knows only `smallest`, `encode` and `decode`. Positions are
int64 (nnz,), strictly increasing, in [0, numel).
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from .errors import BadPositions

__all__ = ["ARRAYS", "ARRAY_COST", "FULL", "MAX_NUMEL", "MAX_SHIFT", "Arrays", "Coding", "decode", "encode", "smallest"]

Arrays = Dict[str, np.ndarray]

MAX_NUMEL = 2**62  # sums of two positions fit in int64
MAX_SHIFT = 56  # a remainder and the bits before it in its byte fit in 64
BLOCK = 32768  # gaps between two restart points
ARRAY_COST = 96  # bytes of the header that one more array takes, about

# The arrays of each kind of coding. All are uint8 but `skip`, int64 (blocks - 1, 2); empty ones are left out.
ARRAYS = {
    "full": (),
    "bitmap": ("bitmap",),
    "triples": ("triples",),
    "golomb": ("hi", "lo", "digits", "twos", "skip"),
}


class Coding(NamedTuple):
    """How positions are encoded: `kind`, a key of ARRAYS; `zeros`, whether those that are *not* stored are encoded;
    `divisor` of the gaps for "golomb", 2^b or 3 * 2^b, else 0."""

    kind: str
    zeros: bool = False
    divisor: int = 0


FULL = Coding("full")


def smallest(positions: np.ndarray, numel: int) -> Tuple[Coding, int]:
    """The coding of the fewest bytes, what its arrays take in the header included, and how many these are."""
    if positions.size == numel:
        return FULL, 0
    candidates = [(Coding("bitmap"), -(-numel // 8) + ARRAY_COST)]
    zeros = 2 * positions.size > numel
    coded = _complement(positions, numel) if zeros else positions
    if 10 * coded.size > 3 * numel:
        candidates.append(_triples_cost(coded, numel, zeros))
    gaps = _gaps(coded)
    candidates += [_golomb_cost(gaps, factor, zeros) for factor in (1, 3)]
    return min(candidates, key=lambda candidate: candidate[1])


def encode(positions: np.ndarray, numel: int, coding: Coding) -> Arrays:
    """The arrays of `positions`, without the empty ones."""
    coded = _complement(positions, numel) if coding.zeros else positions
    if coding.kind == "full":
        arrays: Arrays = {}
    elif coding.kind == "bitmap":
        arrays = {"bitmap": _pack(_mask(coded, numel))}
    elif coding.kind == "triples":
        arrays = _encode_triples(coded, numel)
    else:
        arrays = _encode_golomb(coded, coding.divisor)
    return {name: array for name, array in arrays.items() if array.size}


def decode(arrays: Arrays, nnz: int, numel: int, coding: Coding) -> np.ndarray:
    """The positions, int64 (nnz,). Nothing of the arrays is trusted; work and memory are those of nnz positions.

    Raises:
        BadPositions: they are not nnz strictly increasing positions in [0, numel).
    """
    count = numel - nnz if coding.zeros else nnz
    if coding.kind == "full":
        return np.arange(numel, dtype=np.int64)
    if coding.kind == "bitmap":
        coded = _decode_bitmap(arrays, count, numel)
    elif coding.kind == "triples":
        coded = _decode_triples(arrays, count, numel)
    else:
        coded = _decode_golomb(arrays, count, numel, coding.divisor)
    return _complement(coded, numel) if coding.zeros else coded


# ----- bits -----


def _mask(positions: np.ndarray, numel: int) -> np.ndarray:
    mask = np.zeros(numel, np.bool_)
    mask[positions] = True
    return mask


def _complement(positions: np.ndarray, numel: int) -> np.ndarray:
    mask = np.ones(numel, np.bool_)
    mask[positions] = False
    return _true(mask)


def _true(bits: np.ndarray) -> np.ndarray:
    """int64: where bool or uint8 bits are 1. numpy is fastest with bools; its own int has 32 bits on some machines."""
    return np.flatnonzero(bits.view(np.bool_)).astype(np.int64, copy=False)


def _pack(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits, bitorder="little")


def _unpack(arrays: Arrays, name: str, count: int) -> np.ndarray:
    """uint8 (count,): the bits of an array of exactly that many, which the bits of its last byte pad with zeros."""
    packed = arrays.get(name, NOTHING)
    if packed.size != -(-count // 8):
        raise BadPositions(f"{name} has {packed.size} bytes, not {-(-count // 8)}")
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count:].any():
        raise BadPositions(f"{name} has bits beyond its end")
    return bits[:count]


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise BadPositions(f"{found} positions are encoded, not {count}")


NOTHING = np.empty(0, np.uint8)


# ----- bitmap and triples -----


def _decode_bitmap(arrays: Arrays, count: int, numel: int) -> np.ndarray:
    positions = _true(_unpack(arrays, "bitmap", numel))
    _check_count(positions.size, count)
    return positions


# Three neighbours in the mask are a symbol, first neighbour lowest; its rank in this order has a prefix code, Huffman's
# for densities near 3/8. All codes' bits 1 and 2 come first, then their bits 3, then 4: decoded without a loop.
SYMBOLS = np.array([0b000, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111], np.uint8)
RANKS = np.argsort(SYMBOLS).astype(np.uint8)
FIRST = np.array([0, 1, 1, 2, 2, 3, 3, 3], np.uint8)  # bits 1 and 2, the lower first
SECOND = np.array([0, 0, 1, 0, 1, 0, 1, 1], np.uint8)  # bit 3, of the ranks from 1
THIRD = np.array([0, 0, 0, 0, 0, 0, 0, 1], np.uint8)  # bit 4, of the ranks from 6


def _ranks(positions: np.ndarray, numel: int) -> np.ndarray:
    triples = _mask(positions, -(-numel // 3) * 3).reshape(-1, 3)
    return RANKS[triples @ np.array([1, 2, 4], np.uint8)]


def _triples_cost(positions: np.ndarray, numel: int, zeros: bool) -> Tuple[Coding, int]:
    counts = np.bincount(_ranks(positions, numel), minlength=8)
    bits = 2 * int(counts.sum()) + int(counts[1:].sum()) + int(counts[6:].sum())
    return Coding("triples", zeros), -(-bits // 8) + ARRAY_COST


def _encode_triples(positions: np.ndarray, numel: int) -> Arrays:
    ranks = _ranks(positions, numel)
    first = FIRST[ranks]
    pairs = np.stack([first & 1, first >> 1], 1).reshape(-1)
    return {"triples": _pack(np.concatenate([pairs, SECOND[ranks[ranks >= 1]], THIRD[ranks[ranks >= 6]]]))}


def _decode_triples(arrays: Arrays, count: int, numel: int) -> np.ndarray:
    symbols = -(-numel // 3)
    packed = arrays.get("triples", NOTHING)
    if not 2 * symbols <= packed.size * 8 <= 4 * symbols + 7:
        raise BadPositions(f"{packed.size} bytes cannot be {symbols} triples")
    bits = np.unpackbits(packed, bitorder="little")
    first = bits[: 2 * symbols].reshape(-1, 2) @ np.array([1, 2], np.uint8)
    ranks = np.where(first > 0, 2 * first - 1, 0).astype(np.uint8)
    end = 2 * symbols
    for shorter in (0, 5):  # the highest rank whose code has no such bit
        longer = np.flatnonzero(ranks > shorter)
        if end + longer.size > bits.size:
            raise BadPositions("the triples end early")
        ranks[longer] += bits[end : end + longer.size]
        end += longer.size
    if -(-end // 8) != packed.size or bits[end:].any():
        raise BadPositions(f"the triples have {packed.size} bytes, of which {-(-end // 8)} are needed")
    positions = _true(np.unpackbits(SYMBOLS[ranks][:, None], axis=1, count=3, bitorder="little").reshape(-1))
    _check_count(positions.size, count)
    if count and positions[-1] >= numel:
        raise BadPositions(f"position {positions[-1]} is not below {numel}")
    return positions


# ----- Golomb-coded gaps -----


def _gaps(positions: np.ndarray) -> np.ndarray:
    return np.diff(positions, prepend=-1) - 1


def _split(divisor: int) -> Tuple[int, bool]:
    """(b, whether a remainder begins with a ternary digit) of 2^b and 3 * 2^b."""
    ternary = divisor % 3 == 0
    return (divisor // 3 if ternary else divisor).bit_length() - 1, ternary


def _quotients(gaps: np.ndarray, divisor: int) -> np.ndarray:
    shift, ternary = _split(divisor)
    return (gaps >> shift) // 3 if ternary else gaps >> shift


def _golomb_cost(gaps: np.ndarray, factor: int, zeros: bool) -> Tuple[Coding, int]:
    """The best divisor among factor * 2^b: the cost is convex in b, so going downhill finds it."""

    def cost(shift: int) -> int:
        quotients = _quotients(gaps, factor << shift)
        bits = [count + int(quotients.sum()), count * shift, 128 * max(-(-count // BLOCK) - 1, 0)]
        if factor == 3:
            bits += [count, int(np.count_nonzero((gaps >> shift) - 3 * quotients))]
        return sum(-(-each // 8) + ARRAY_COST for each in bits if each)

    count = gaps.size
    mean = int(gaps.sum()) // max(count, 1)
    shift = min(max((mean * 2 // (3 * factor)).bit_length() - 1, 0), MAX_SHIFT)
    best = cost(shift)
    for step in (-1, 1):
        while 0 <= shift + step <= MAX_SHIFT and (next_cost := cost(shift + step)) < best:
            shift, best = shift + step, next_cost
    return Coding("golomb", zeros, factor << shift), best


def _encode_golomb(positions: np.ndarray, divisor: int) -> Arrays:
    gaps = _gaps(positions)
    shift, ternary = _split(divisor)
    quotients = _quotients(gaps, divisor)
    ends = np.cumsum(quotients + 1)  # of each unary quotient
    rest = gaps - quotients * divisor
    starts = range(BLOCK, gaps.size, BLOCK)
    arrays = {
        "hi": _pack(_mask(ends - 1, int(ends[-1]) if ends.size else 0)),
        "lo": _pack_numbers(rest & ((1 << shift) - 1), shift),
        "skip": np.array([(positions[k - 1] + 1, ends[k - 1]) for k in starts], "<i8").reshape(-1, 2),
    }
    if ternary:
        digits = rest >> shift
        arrays.update(digits=_pack(digits > 0), twos=_pack(digits[digits > 0] == 2))
    return arrays


def _decode_golomb(arrays: Arrays, count: int, numel: int, divisor: int) -> np.ndarray:
    """Block by block: what is unpacked at a time is small."""
    hi, lo = arrays.get("hi", NOTHING), arrays.get("lo", NOTHING)
    skip = arrays.get("skip", NOTHING.view("<i8").reshape(0, 2))
    shift, ternary = _split(divisor)
    blocks = -(-count // BLOCK)
    digits = _decode_digits(arrays, count) if ternary else None
    if hi.size * 8 < count or lo.size != -(-count * shift // 8) or skip.shape != (max(blocks - 1, 0), 2):
        raise BadPositions(f"hi, lo and skip of {hi.size}, {lo.size} and {skip.size * 8} bytes do not fit {count} gaps")
    restarts: List[Tuple[int, int]] = [(0, 0), *((int(at), int(bit)) for at, bit in skip)]
    positions = np.empty(count, np.int64)
    at, bit = 0, 0
    for block, start in enumerate(range(0, count, BLOCK)):
        if restarts[block] != (at, bit):
            raise BadPositions(f"restart point {block} is {restarts[block]}, not {(at, bit)}")
        size = min(BLOCK, count - start)
        last = block + 1 == blocks
        end = hi.size * 8 if last else min(max(restarts[block + 1][1], bit), hi.size * 8)
        ends = _true(np.unpackbits(hi[bit >> 3 : -(-end // 8)], bitorder="little")[bit & 7 : end - (bit & ~7)])
        _check_count(ends.size, size)
        quotients = np.diff(ends, prepend=-1) - 1
        if (int(ends[-1]) + 1 - size) * divisor > numel:
            raise BadPositions(f"a quotient passes the {numel} elements")
        gaps = quotients * divisor + _unpack_numbers(lo[start * shift // 8 :], size, shift)
        if digits is not None:
            gaps += digits[start : start + size].astype(np.int64) << shift
        if gaps.sum(dtype=np.float64) > 1.5 * MAX_NUMEL:  # the sum below would pass int64
            raise BadPositions(f"the gaps pass the {numel} elements")
        np.cumsum(gaps + 1, out=positions[start : start + size])
        positions[start : start + size] += at - 1
        if not 0 <= int(positions[start + size - 1]) < numel:
            raise BadPositions(f"position {positions[start + size - 1]} is not below {numel}")
        at, bit = int(positions[start + size - 1]) + 1, bit + int(ends[-1]) + 1
    if -(-bit // 8) != hi.size:
        raise BadPositions(f"hi has {hi.size} bytes, of which {-(-bit // 8)} are needed")
    return positions


def _decode_digits(arrays: Arrays, count: int) -> np.ndarray:
    digits = _unpack(arrays, "digits", count)
    larger = _true(digits)
    digits[larger] += _unpack(arrays, "twos", larger.size)
    return digits


def _pack_numbers(numbers: np.ndarray, width: int) -> np.ndarray:
    """Numbers of `width` bits each, lowest bit first, one after the other."""
    bits = np.arange(width)
    parts = (numbers[start : start + BLOCK, None] >> bits & 1 for start in range(0, numbers.size, BLOCK))
    return np.concatenate([NOTHING, *(_pack(part.astype(np.uint8).reshape(-1)) for part in parts)])


def _unpack_numbers(packed: np.ndarray, count: int, width: int) -> np.ndarray:
    first_bits = np.arange(count) * width
    some = np.zeros(-(-count * width // 8) + 8, np.uint8)
    some[: min(packed.size, some.size)] = packed[: some.size]
    words = np.ndarray((some.size - 7,), "<u8", some, strides=(1,))  # the 8 bytes from each byte
    return (words[first_bits >> 3] >> (first_bits & 7).astype(np.uint64)).astype(np.int64) & ((1 << width) - 1)
