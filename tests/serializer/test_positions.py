"""The codings of positions: round trips, sizes against the entropy and the original's rule, wrong bytes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpl_sparse.serializer.errors import BadPositions
from mpl_sparse.serializer.positions import BLOCK, FULL, MAX_NUMEL, Coding, decode, encode, smallest

CODINGS = [
    *(Coding(kind, zeros) for kind in ("bitmap", "huffman") for zeros in (False, True)),
    *(Coding("golomb", zeros, factor << b) for zeros in (False, True) for factor in (1, 3) for b in (0, 1, 4, 9, 56)),
]
codings = pytest.mark.parametrize("coding", CODINGS, ids=str)


def random_positions(numel, density, seed=0):
    random = np.random.default_rng(seed)
    if density == 0 or density >= 0.01:
        return np.flatnonzero(random.random(numel) < density)
    gaps = random.geometric(density, int(1.2 * numel * density) + 1000)  # the mask itself would take gigabytes
    positions = np.cumsum(gaps, dtype=np.int64) - 1
    return positions[positions < numel]


@codings
@given(st.lists(st.booleans(), max_size=70))
def test_round_trip(coding, mask):
    positions = np.flatnonzero(mask)
    again = decode(encode(positions, len(mask), coding), positions.size, len(mask), coding)
    assert again.dtype == np.int64 and np.array_equal(again, positions)


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("divisor", [1, 2, 3, 12, 96])
def test_restart_points(count, divisor):
    positions = np.cumsum(np.random.default_rng(count).integers(1, 40, count))
    numel, coding = int(positions[-1]) + 3, Coding("golomb", False, divisor)
    packed = encode(positions, numel, coding)
    assert np.array_equal(decode(packed, count, numel, coding), positions)
    restarts = packed[: 16 * (-(-count // BLOCK) - 1)].view("<i8").reshape(-1, 2)
    quotients = (np.diff(positions, prepend=-1) - 1) // divisor
    for k, (position, bit) in enumerate(restarts, 1):
        assert position == positions[k * BLOCK - 1] + 1 and bit == (quotients[: k * BLOCK] + 1).sum()


@given(st.sets(st.integers(0, MAX_NUMEL - 1), max_size=30))
def test_large_positions(chosen):
    positions = np.array(sorted(chosen), np.int64)
    coding = min((Coding("golomb", False, f << b) for f in (1, 3) for b in (54, 56)), key=lambda c: c.divisor)
    assert np.array_equal(decode(encode(positions, MAX_NUMEL, coding), positions.size, MAX_NUMEL, coding), positions)


@pytest.mark.parametrize("density", [0, 0.001, 0.01, 0.1, 0.2, 0.25, 0.35, 0.42, 0.5, 0.6, 0.75, 0.9, 0.99, 1])
def test_the_smallest_is_the_smallest(density):
    numel = 20_011
    positions = random_positions(numel, density)
    coding, cost = smallest(positions, numel)
    assert cost == encode(positions, numel, coding).size
    zeros = 2 * positions.size > numel
    others = [Coding("bitmap"), Coding("huffman", zeros)]
    others += [Coding("golomb", zeros, factor << b) for factor in (1, 3) for b in range(16)]
    for other in others if coding != FULL else []:
        assert cost <= encode(positions, numel, other).size, other


# Worst is 1.0159, at a density of 0.332, where Golomb's code for pairs meets Huffman's for six.
@pytest.mark.parametrize(
    "density", [*np.geomspace(1e-4, 0.04, 8), *np.linspace(0.05, 0.95, 46), 0.332, 0.3375, 0.668, 0.97, 0.999]
)
def test_positions_take_no_more_than_1_02_of_the_entropy(density):
    numel = math.ceil(40_000 / density) if density < 0.1 else 400_000
    positions = random_positions(numel, density, seed=1)
    share = positions.size / numel
    entropy = -numel * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    if positions.size >= 10_000:
        assert smallest(positions, numel)[1] <= 1.02 * entropy


@pytest.mark.parametrize("density", [0.0005, 0.01, 1 / 33, 1 / 31, 0.1, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("numel", [1_000, 100_000, 2_000_000])
def test_positions_are_no_larger_than_the_originals(numel, density):
    positions = random_positions(numel, density)
    index = next(size for size, most in ((1, 2**8), (2, 2**15), (4, 2**31)) if numel <= most)
    original = positions.size * index if positions.size / numel < 1 / 32 else -(-numel // 8)
    assert smallest(positions, numel)[1] <= original


@codings
def test_wrong_bytes_are_refused_or_positions(coding):
    """Bits changed, bytes cut off and added, wrong counts: named errors, or increasing positions."""
    numel, random = 500, np.random.default_rng(7)
    positions = random_positions(numel, 0.2)
    good, refused = encode(positions, numel, coding), 0
    for _ in range(1000):
        packed, kind = good.copy(), random.integers(4)
        if kind < 2:
            packed[random.integers(packed.size)] ^= 1 << random.integers(8)
        elif kind == 2:
            packed = packed[: random.integers(packed.size)]
        else:
            packed = np.concatenate([packed, packed[: random.integers(1, 9)]])
        count = int(positions.size + random.integers(-1, 2))
        try:
            made = decode(packed, count, numel, coding)
        except BadPositions:
            refused += 1
        else:
            assert (
                made.shape == (count,) and (np.diff(made) > 0).all() and (not count or 0 <= made[0] <= made[-1] < numel)
            )
    assert refused > 500


def test_gaps_that_pass_int64_are_refused():
    count = 4096
    packed = np.full(count * 7 + count // 8, 255, np.uint8)
    with pytest.raises(BadPositions, match="pass"):
        decode(packed, count, MAX_NUMEL, Coding("golomb", False, 2**56))


@pytest.mark.parametrize("coding", [Coding("bitmap"), Coding("huffman"), Coding("golomb", False, 1)], ids=str)
def test_nothing_is_allocated_for_what_the_bytes_cannot_hold(coding):
    with pytest.raises(BadPositions):
        decode(np.zeros(9, np.uint8), 2**50, 2**51, coding)
