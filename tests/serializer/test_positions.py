"""The codings of positions, by the core and by the reference in numpy: the same bytes, the same positions, the same
refusals; sizes against the entropy and the original's rule."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpl_sparse import _core
from mpl_sparse.serializer import reference
from mpl_sparse.serializer.errors import BadPositions
from mpl_sparse.serializer.positions import BLOCK, CHUNK, FULL, MAX_NUMEL, Coding, Encoder, chunks

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


def encode(positions, numel, coding):
    """The bytes, which both make."""
    packed = Encoder(np.asarray(positions, np.int64), numel, coding).encode()
    assert np.array_equal(packed, reference.encode(positions, numel, coding))
    return packed


def core_decode(packed, nnz, numel, coding):
    return np.concatenate([np.empty(0, np.int64), *(chunk.copy() for chunk in chunks(packed, nnz, numel, coding))])


def decode(packed, nnz, numel, coding):
    """The positions that both find, or the error that both raise."""
    made = []
    for one in (core_decode, reference.decode):
        try:
            made.append(one(packed, nnz, numel, coding))
        except BadPositions as error:
            made.append(error)
    if any(isinstance(each, BadPositions) for each in made):
        assert all(isinstance(each, BadPositions) for each in made), made
        raise made[0]
    assert made[0].dtype == made[1].dtype == np.int64 and np.array_equal(*made)
    return made[0]


def smallest(positions, numel):
    """(coding, bytes), which both find."""
    encoder = Encoder(positions, numel)
    assert (encoder.coding, encoder.nbytes) == reference.smallest(positions, numel)
    return encoder.coding, encoder.nbytes


@codings
@given(st.lists(st.booleans(), max_size=70))
def test_round_trip(coding, mask):
    positions = np.flatnonzero(mask).astype(np.int64)
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


@pytest.mark.parametrize("nnz", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
@codings
def test_chunks(coding, nnz):
    """Many chunks, of which the last one is full or not; the gaps are small, lest the mask is large."""
    positions = np.cumsum(np.random.default_rng(nnz).geometric(0.4, nnz)) - 1
    numel = int(positions[-1]) + 100
    assert np.array_equal(decode(encode(positions, numel, coding), nnz, numel, coding), positions)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 90)), max_size=40), st.integers(0, 500))
def test_any_mask_has_the_same_smallest_coding(runs, tail):
    """Masks of runs, far from what the codes are made for."""
    mask = np.concatenate([np.empty(0, bool), *(np.repeat([False, True], run) for run in runs), np.zeros(tail, bool)])
    positions = np.flatnonzero(mask).astype(np.int64)
    coding, cost = smallest(positions, mask.size)
    packed = encode(positions, mask.size, coding) if coding != FULL else np.empty(0, np.uint8)
    assert packed.size == cost and np.array_equal(decode(packed, positions.size, mask.size, coding), positions)


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


@pytest.mark.parametrize("size", range(20))
@codings
def test_bytes_at_random_are_refused_or_positions(coding, size):
    for seed in range(40):
        random = np.random.default_rng([size, seed])
        packed = random.integers(0, 256, size, np.uint8) & random.integers(0, 256, size, np.uint8)
        numel = int(random.integers(0, 12 * size + 2))
        with contextlib.suppress(BadPositions):
            decode(packed, int(random.integers(0, numel + 1)), numel, coding)


@pytest.mark.parametrize("wrong", [[3, 3], [4, 3], [-1, 3], [3, 9], [-5], [9]])
@pytest.mark.parametrize("coding", [None, *CODINGS], ids=str)
def test_positions_that_do_not_increase_are_refused(coding, wrong):
    with pytest.raises(ValueError, match="positions must increase strictly within"):
        Encoder(np.array(wrong, np.int64), 9, coding)


def test_the_core_refuses_other_arguments():
    positions, packed = np.arange(3, dtype=np.int64), np.zeros(2, np.uint8)
    for numel in (-1, MAX_NUMEL + 1, 2):
        with pytest.raises(ValueError, match="numel|nnz"):
            _core.PositionEncoder(positions, numel)
    for nnz, numel in ((-1, 9), (10, 9), (1, MAX_NUMEL + 1)):
        with pytest.raises(ValueError, match="numel|nnz"):
            _core.PositionDecoder(packed, nnz, numel, "bitmap")
    for divisor in (0, -1, 5, 9, 2**57, 3 * 2**57):
        with pytest.raises(ValueError, match="divisor must be"):
            _core.PositionEncoder(positions, 9, "golomb", False, divisor)
        with pytest.raises(ValueError, match="divisor must be"):
            _core.PositionDecoder(packed, 3, 9, "golomb", False, divisor)
    with pytest.raises(ValueError, match="kind must be"):
        _core.PositionEncoder(positions, 9, "zip")
    with pytest.raises(ValueError, match="positions must be int64"):
        _core.PositionEncoder(positions.astype(np.int32), 9)
    with pytest.raises(ValueError, match="packed must be uint8"):
        _core.PositionDecoder(positions, 3, 9, "bitmap")
    encoder = _core.PositionEncoder(positions, 9)
    with pytest.raises(ValueError, match="size is not that"):
        encoder.write(np.zeros(encoder.size + 1, np.uint8))


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_positions_that_change_meanwhile_do_no_harm(coding):
    """Another thread may write to them between the choice of a coding and the encoding."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        positions = np.sort(random.choice(400, 100, replace=False)).astype(np.int64)
        encoder = Encoder(positions, 400, coding)
        positions[random.integers(100, size=5)] = random.integers(-(2**62), 2**62, 5)
        try:
            assert encoder.encode().size == encoder.nbytes
        except ValueError as error:
            assert "size is not that" in str(error)


def test_gaps_that_pass_int64_are_refused():
    count = 4096
    packed = np.full(count * 7 + count // 8, 255, np.uint8)
    with pytest.raises(BadPositions, match="pass"):
        reference.decode(packed, count, MAX_NUMEL, Coding("golomb", False, 2**56))
    with pytest.raises(BadPositions, match="not below"):
        decode(packed, count, MAX_NUMEL, Coding("golomb", False, 2**56))


@pytest.mark.parametrize("coding", [Coding("bitmap"), Coding("huffman"), Coding("golomb", False, 1)], ids=str)
def test_nothing_is_allocated_for_what_the_bytes_cannot_hold(coding):
    with pytest.raises(BadPositions):
        decode(np.zeros(9, np.uint8), 2**50, 2**51, coding)
