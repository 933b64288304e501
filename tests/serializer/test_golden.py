"""Golden files: what was written once is written alike, and read, for ever."""

import io
import json

import file_samples
import numpy as np
import pytest

from mpl_sparse import Pattern, dumps, inspect, loads

FOLDER = file_samples.FOLDER / "golden"
golden = pytest.mark.parametrize("name", file_samples.GOLDEN)


def assert_equal(made, obj):
    if isinstance(obj, np.ndarray):
        assert made.dtype == obj.dtype and np.array_equal(made, obj)
    elif isinstance(obj, (tuple, dict)):
        pairs = zip(made, obj) if isinstance(obj, tuple) else ((made[key], obj[key]) for key in obj)
        assert type(made) is type(obj) and len(made) == len(obj)
        for one, other in pairs:
            assert_equal(one, other)
    else:
        assert made == obj and type(made) is type(obj)


@golden
def test_a_golden_file(name):
    obj, options, coding = file_samples.GOLDEN[name]
    data = (FOLDER / f"{name}.mpl").read_bytes()
    assert dumps(obj, **options) == data
    assert inspect(io.BytesIO(data))[0].encoding == coding
    made = loads(data, known=[file_samples.KNOWN])
    if name == "rounded":
        assert made.dtype == obj.dtype and np.abs(made - obj).max() <= 2**-9
    else:
        assert_equal(made, obj)


def test_every_file_is_known():
    assert {path.stem for path in FOLDER.iterdir()} == set(file_samples.GOLDEN)


@golden
def test_a_plain_reader_opens_it(name):
    safetensors = pytest.importorskip("safetensors.numpy")
    data = (FOLDER / f"{name}.mpl").read_bytes()
    if name != "rounded":  # numpy has no bfloat16
        arrays = safetensors.load(data)
        assert sum(array.nbytes for array in arrays.values()) == sum(info.nbytes for info in inspect(io.BytesIO(data)))


def read_slowly(name):
    """The divisor of a golden Golomb file, and an iterator over the bits of each of its arrays."""
    safetensors = pytest.importorskip("safetensors.numpy")
    data = (FOLDER / f"{name}.mpl").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    bits = {
        key.rpartition(".")[2]: iter([byte >> at & 1 for byte in array.tolist() for at in range(8)])
        for key, array in safetensors.load(data).items()
        if array.dtype == np.uint8
    }
    return json.loads(header["__metadata__"]["tensors"])[0]["divisor"], bits


@pytest.mark.parametrize("name", ["golomb", "golomb_zeros", "golomb_ternary", "golomb_restart"])
def test_the_specification_read_slowly(name):
    pattern = file_samples.GOLDEN[name][0]
    divisor, bits = read_slowly(name)
    ternary = "digits" in bits
    b = (divisor // 3 if ternary else divisor).bit_length() - 1
    at, positions = 0, []
    for _ in range(pattern.rows * pattern.cols - pattern.nnz if name == "golomb_zeros" else pattern.nnz):
        quotient = 0
        while not next(bits["hi"]):
            quotient += 1
        rest = sum(next(bits["lo"]) << bit for bit in range(b))
        if ternary and next(bits["digits"]):
            rest += (1 + next(bits["twos"])) << b
        positions.append(at + quotient * divisor + rest)
        at = positions[-1] + 1
    expected = pattern.flat_positions()
    if name == "golomb_zeros":
        expected = np.setdiff1d(np.arange(pattern.rows * pattern.cols), expected)
    assert np.array_equal(positions, expected)


@pytest.mark.parametrize("name", ["triples", "triples_zeros"])
def test_the_codes_of_triples_read_slowly(name):
    safetensors = pytest.importorskip("safetensors.numpy")
    codes = {"00": 0, "100": 1, "101": 2, "010": 4, "011": 3, "110": 5, "1110": 6, "1111": 7}
    packed = safetensors.load((FOLDER / f"{name}.mpl").read_bytes())["tensor.mpl.triples"]
    stream = iter("".join(str(byte >> at & 1) for byte in packed.tolist() for at in range(8)))
    pattern = file_samples.GOLDEN[name][0]
    made = [next(stream) + next(stream) for _ in range(pattern.rows * pattern.cols // 3)]
    for _ in range(2):
        made = [code if code in codes else code + next(stream) for code in made]
    mask = [codes[code] >> at & 1 for code in made for at in range(3)]
    assert np.array_equal(np.array(mask) == (0 if name == "triples_zeros" else 1), pattern.to_mask().reshape(-1))


def test_a_pattern_has_the_id_that_the_specification_gives():
    import hashlib

    pattern = Pattern.from_mask(np.eye(2, 3, dtype=bool))
    content = np.array([2, 2, 3], "<i8").tobytes() + np.array([0, 1, 2, 0, 1], "<i4").tobytes()
    assert pattern.id == hashlib.blake2b(content, digest_size=16).hexdigest()
