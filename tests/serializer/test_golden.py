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
    """The divisor of a golden file, the bytes of its positions, and those that they tell, as far as FORMAT.md says."""
    safetensors = pytest.importorskip("safetensors.numpy")
    data = (FOLDER / f"{name}.mpl").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    (record,) = json.loads(header["__metadata__"]["tensors"])
    pattern = file_samples.GOLDEN[name][0]
    expected = pattern.to_mask().reshape(-1) != record.get("zeros", False)
    return record.get("divisor"), safetensors.load(data)["tensor.mpl.positions"].tolist(), expected.tolist()


def bits_of(packed):
    return [byte >> at & 1 for byte in packed for at in range(8)]


@pytest.mark.parametrize("name", ["golomb", "golomb_zeros", "golomb_ternary", "golomb_restart"])
def test_gaps_read_slowly(name):
    divisor, packed, expected = read_slowly(name)
    count, ternary = sum(expected), divisor % 3 == 0
    b = (divisor // 3 if ternary else divisor).bit_length() - 1

    def take(bits):
        nonlocal packed
        taken, packed = packed[: -(-bits // 8)], packed[-(-bits // 8) :]
        return iter(bits_of(taken))

    take(128 * ((count - 1) // 32768))
    low = take(count * b)
    rests = [sum(next(low) << bit for bit in range(b)) for _ in range(count)]
    if ternary:
        digits = list(take(count))[:count]
        twos = take(sum(digits))
        rests = [rest + ((digit + next(twos)) << b if digit else 0) for rest, digit in zip(rests, digits)]
    quotients, made = iter(bits_of(packed)), []
    for rest in rests:
        quotient = 0
        while not next(quotients):
            quotient += 1
        made += [False] * (quotient * divisor + rest) + [True]
    assert made + [False] * (len(expected) - len(made)) == expected


@pytest.mark.parametrize("name", ["huffman", "huffman_zeros"])
def test_codes_read_slowly(name):
    _, packed, expected = read_slowly(name)
    codes, code = {}, 0
    counts = {4: 1, 5: 10, 6: 31, 7: 15, 8: 5, 9: 2}
    symbols = iter(sorted(range(64), key=lambda symbol: (bin(symbol).count("1"), symbol)))
    for length, count in counts.items():
        for _ in range(count):
            codes[f"{code:0{length}b}"] = next(symbols)
            code += 1
        code *= 2
    assert "00011" in codes and "1" * 9 in codes
    stream = iter(map(str, bits_of(packed)))
    made = [""] * -(-len(expected) // 6)
    for _ in range(9):
        made = [read if read in codes else read + next(stream) for read in made]
    mask = [bool(codes[read] >> at & 1) for read in made for at in range(6)]
    assert mask[: len(expected)] == expected and not any(mask[len(expected) :])


def test_a_pattern_has_the_id_that_the_specification_gives():
    import hashlib

    pattern = Pattern.from_mask(np.eye(2, 3, dtype=bool))
    content = np.array([2, 2, 3], "<i8").tobytes() + np.array([0, 1, 2, 0, 1], "<i4").tobytes()
    assert pattern.id == hashlib.blake2b(content, digest_size=16).hexdigest()
