"""The codings of positions in numpy, to be read beside FORMAT.md: what the core does, in few words and slowly.

`save` and `load` do not use it. The tests hold the core against it, byte for byte and position for position.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

from .errors import BadPositions
from .positions import BLOCK, FULL, MAX_NUMEL, MAX_SHIFT, Coding

__all__ = ["decode", "encode", "smallest"]


def smallest(positions: np.ndarray, numel: int) -> Tuple[Coding, int]:
    """The coding of the fewest bytes, the first of several, and how many these are."""
    if positions.size == numel:
        return FULL, 0
    zeros = 2 * positions.size > numel
    coded = _complement(positions, numel) if zeros else positions
    gaps = _gaps(coded)
    candidates = [(Coding("bitmap"), -(-numel // 8)), *(_best_golomb(gaps, factor, zeros) for factor in (1, 3))]
    candidates.append((Coding("huffman", zeros), _huffman_size(coded, numel)))
    if zeros:
        candidates.append((Coding("golomb", False, 1), _golomb_size(_gaps(positions), 1)))
    return min(candidates, key=lambda candidate: candidate[1])


def encode(positions: np.ndarray, numel: int, coding: Coding) -> np.ndarray:
    """The bytes of `positions`, uint8 1-D."""
    coded = _complement(positions, numel) if coding.zeros else positions
    if coding.kind == "full":
        return NOTHING
    if coding.kind == "bitmap":
        return _pack(_mask(coded, numel))
    if coding.kind == "huffman":
        return _encode_huffman(coded, numel)
    return _encode_golomb(coded, coding.divisor)


def decode(packed: np.ndarray, nnz: int, numel: int, coding: Coding) -> np.ndarray:
    """The positions, int64 (nnz,), of `packed`, uint8 1-D, of which nothing is trusted.

    Raises:
        BadPositions: it is not nnz strictly increasing positions in [0, numel).
    """
    count = numel - nnz if coding.zeros else nnz
    if coding.kind == "full":
        return np.arange(numel, dtype=np.int64)
    if coding.kind == "bitmap":
        coded = _decode_bitmap(packed, count, numel)
    elif coding.kind == "huffman":
        coded = _decode_huffman(packed, count, numel)
    else:
        coded = _decode_golomb(packed, count, numel, coding.divisor)
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


def _unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """uint8 (count,): the bits of exactly so many, which zeros pad to bytes."""
    if packed.size != -(-count // 8):
        raise BadPositions(f"{packed.size} bytes are encoded, not the {-(-count // 8)} of {count} bits")
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count:].any():
        raise BadPositions("there are bits beyond the end")
    return bits[:count]


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise BadPositions(f"{found} positions are encoded, not {count}")


NOTHING = np.empty(0, np.uint8)


# ----- bitmap, plain and in a Huffman code -----


def _decode_bitmap(packed: np.ndarray, count: int, numel: int) -> np.ndarray:
    positions = _true(_unpack(packed, numel))
    _check_count(positions.size, count)
    return positions


# Six neighbours in the mask are a symbol, the first in its lowest bit. Sorted by their number of ones, then by value,
# symbols have the canonical code with COUNTS[length] codes of each length: Huffman's for densities from 1/3 to 3/8.
# First come the first bits of all codes, then their second bits, and so on: decoded without a loop over symbols.
COUNTS = (0, 0, 0, 0, 1, 10, 31, 15, 5, 2)
SYMBOLS = np.array(sorted(range(64), key=lambda symbol: (bin(symbol).count("1"), symbol)), np.uint8)
RANKS = np.argsort(SYMBOLS)
LENGTHS = np.repeat(np.arange(len(COUNTS)), COUNTS)  # of the codes, by rank
CODES = np.cumsum(np.append(0, 1 << (9 - LENGTHS[:-1]))) >> (9 - LENGTHS)


def _ranks(positions: np.ndarray, numel: int) -> np.ndarray:
    six = _mask(positions, -(-numel // 6) * 6).reshape(-1, 6)
    return RANKS[np.packbits(six, axis=1, bitorder="little").reshape(-1)]


def _huffman_size(positions: np.ndarray, numel: int) -> int:
    return -(-int(np.bincount(_ranks(positions, numel), minlength=64) @ LENGTHS) // 8)


def _encode_huffman(positions: np.ndarray, numel: int) -> np.ndarray:
    ranks = _ranks(positions, numel)
    codes, lengths, levels = CODES[ranks], LENGTHS[ranks], []
    for level in range(1, len(COUNTS)):
        levels.append(codes >> (lengths - level) & 1)
        longer = lengths > level
        codes, lengths = codes[longer], lengths[longer]
    return _pack(np.concatenate(levels).astype(np.uint8))


def _decode_huffman(packed: np.ndarray, count: int, numel: int) -> np.ndarray:
    symbols = -(-numel // 6)
    if not 4 * symbols <= packed.size * 8 < 9 * symbols + 8:
        raise BadPositions(f"{packed.size} bytes cannot be {symbols} symbols")
    bits = np.unpackbits(packed, bitorder="little")
    ranks = np.empty(symbols, np.uint8)
    left, codes = np.arange(symbols), np.zeros(symbols, np.int16)  # whose codes have not ended, and these so far
    first_rank = end = 0
    for level in range(1, len(COUNTS)):
        if end + left.size > bits.size:
            raise BadPositions("the codes end early")
        codes = 2 * codes + bits[end : end + left.size]
        end += left.size
        if COUNTS[level]:
            from_first = codes - CODES[first_rank]
            ended = from_first < COUNTS[level]
            ranks[left[ended]] = from_first[ended] + first_rank
            left, codes = left[~ended], codes[~ended]
            first_rank += COUNTS[level]
    _unpack(packed, end)
    positions = _true(np.unpackbits(SYMBOLS[ranks][:, None], axis=1, count=6, bitorder="little").reshape(-1))
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


def _golomb_size(gaps: np.ndarray, divisor: int) -> int:
    count, quotients, (shift, ternary) = gaps.size, _quotients(gaps, divisor), _split(divisor)
    bits = [count + int(quotients.sum()), count * shift, 128 * max(-(-count // BLOCK) - 1, 0)]
    if ternary:
        bits += [count, int(np.count_nonzero((gaps >> shift) - 3 * quotients))]
    return sum(-(-each // 8) for each in bits)


def _best_golomb(gaps: np.ndarray, factor: int, zeros: bool) -> Tuple[Coding, int]:
    """The best divisor among factor * 2^b, the smallest if several are, and its bytes."""

    largest = int(gaps.max()) if gaps.size else 0  # a divisor beyond it only makes longer remainders
    shifts = range(min(largest.bit_length(), MAX_SHIFT) + 1)
    size, shift = min((_golomb_size(gaps, factor << shift), shift) for shift in shifts)
    return Coding("golomb", zeros, factor << shift), size


def _encode_golomb(positions: np.ndarray, divisor: int) -> np.ndarray:
    gaps = _gaps(positions)
    shift, ternary = _split(divisor)
    quotients = _quotients(gaps, divisor)
    ends = np.cumsum(quotients + 1)  # of each unary quotient
    rest = gaps - quotients * divisor
    starts = range(BLOCK, gaps.size, BLOCK)
    skip = np.array([(positions[k - 1] + 1, ends[k - 1]) for k in starts], "<i8")
    parts = [skip.reshape(-1).view(np.uint8), _pack_numbers(rest & ((1 << shift) - 1), shift)]
    if ternary:
        digits = rest >> shift
        parts += [_pack(digits > 0), _pack(digits[digits > 0] == 2)]
    return np.concatenate([*parts, _pack(_mask(ends - 1, int(ends[-1]) if ends.size else 0))])


def _decode_golomb(packed: np.ndarray, count: int, numel: int, divisor: int) -> np.ndarray:
    """Block by block: what is unpacked at a time is small."""
    shift, ternary = _split(divisor)
    blocks = -(-count // BLOCK)
    skip, packed = _cut(packed, 16 * max(blocks - 1, 0))
    lo, packed = _cut(packed, -(-count * shift // 8))
    if count * shift % 8 and lo[-1] >> count * shift % 8:
        raise BadPositions("there are bits beyond the end")
    if ternary:
        bits, packed = _cut(packed, -(-count // 8))
        digits = _unpack(bits, count)
        larger = _true(digits)
        twos, packed = _cut(packed, -(-larger.size // 8))
        digits[larger] += _unpack(twos, larger.size)
    hi = packed
    if hi.size * 8 < count:
        raise BadPositions(f"{hi.size} bytes cannot be {count} quotients")
    restarts: List[Tuple[int, int]] = [(0, 0), *((int(at), int(bit)) for at, bit in skip.view("<i8").reshape(-1, 2))]
    positions = np.empty(count, np.int64)
    at, bit = 0, 0
    for block, start in enumerate(range(0, count, BLOCK)):
        if restarts[block] != (at, bit):
            raise BadPositions(f"restart point {block} is {restarts[block]}, not {(at, bit)}")
        size = min(BLOCK, count - start)
        end = hi.size * 8 if block + 1 == blocks else min(max(restarts[block + 1][1], bit), hi.size * 8)
        ends = _true(np.unpackbits(hi[bit >> 3 : -(-end // 8)], bitorder="little")[bit & 7 : end - (bit & ~7)])
        _check_count(ends.size, size)
        quotients = np.diff(ends, prepend=-1) - 1
        if (int(ends[-1]) + 1 - size) * divisor > numel:
            raise BadPositions(f"a quotient passes the {numel} elements")
        gaps = quotients * divisor + _unpack_numbers(lo[start * shift // 8 :], size, shift)
        if ternary:
            gaps += digits[start : start + size].astype(np.int64) << shift
        if gaps.sum(dtype=np.float64) > 1.5 * MAX_NUMEL:  # the sum below would pass int64
            raise BadPositions(f"the gaps pass the {numel} elements")
        np.cumsum(gaps + 1, out=positions[start : start + size])
        positions[start : start + size] += at - 1
        if not 0 <= int(positions[start + size - 1]) < numel:
            raise BadPositions(f"position {positions[start + size - 1]} is not below {numel}")
        at, bit = int(positions[start + size - 1]) + 1, bit + int(ends[-1]) + 1
    if -(-bit // 8) != hi.size:
        raise BadPositions(f"there are {hi.size} bytes of quotients, of which {-(-bit // 8)} are needed")
    return positions


def _cut(packed: np.ndarray, size: int) -> Tuple[np.ndarray, np.ndarray]:
    if size > packed.size:
        raise BadPositions(f"{packed.size} bytes are left of those encoded, {size} are needed")
    return packed[:size], packed[size:]


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
