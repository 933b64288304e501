"""safetensors files of other programs, and compressed-tensors' bitmasks in them."""

import io
import os
import struct
import subprocess
import sys

import foreign_samples
import numpy as np
import pytest
from foreign_samples import bitmask_parts, matrix, safetensors_file

import mpl_sparse
from mpl_sparse.serializer import BadHeader, BadPositions, BadValues, FileError, TooLarge, Truncated

torch = pytest.importorskip("torch")


def imported(data, **options):
    return mpl_sparse.import_legacy(io.BytesIO(data), **options)


def test_what_the_library_of_safetensors_writes():
    library = pytest.importorskip("safetensors.torch")
    names = [
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "float8_e4m3fn",
        "float8_e5m2",
    ]
    tensors = {name: (torch.arange(6) % 2).reshape(2, 3).to(getattr(torch, name)) for name in names}
    tensors.update(scalar=torch.tensor(2.5), empty=torch.zeros(3, 0), odd=torch.arange(3, dtype=torch.uint8))
    data = library.save(tensors, metadata={"format": "pt", "other": "text"})
    made = imported(data)
    assert made.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert made[name].dtype == tensor.dtype and mpl_sparse.dumps([made[name]]) == mpl_sparse.dumps([tensor])
    again = mpl_sparse.loads(mpl_sparse.dumps(made))
    assert all(torch.equal(again[name].float(), tensor.float()) for name, tensor in tensors.items())


def test_every_length_of_a_header():
    """The lowest byte of a length may be that with which a pickle begins, or an archive."""
    for length in range(60, 60 + 256):
        name = "a" * (length - 54)
        data = safetensors_file({name: ("U8", (1,), b"\7")})
        assert imported(data)[name].tolist() == [7]


def test_a_state_dict_goes_into_a_layer():
    data = safetensors_file(
        {
            "weight": ("F32", (7, 13), matrix(7, 13, 0.5).tobytes()),
            "bias": ("F32", (7,), np.arange(7, dtype=np.float32).tobytes()),
        }
    )
    layer = mpl_sparse.nn.DenseLinear(13, 7)
    layer.load_state_dict(imported(data))
    assert np.array_equal(layer.weight.detach().numpy(), matrix(7, 13, 0.5))


def entry(**changes):
    def change(header):
        header["a"].update(changes)

    return change


def two(begin, end):
    def change(header):
        header["b"] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}

    return change


PLAIN = {"a": ("F32", (2, 3), bytes(24))}


@pytest.mark.parametrize(
    "error, data",
    [
        (Truncated, safetensors_file(PLAIN)[:-1]),
        (Truncated, safetensors_file(PLAIN) + b"x"),
        (Truncated, struct.pack("<Q", 2**31) + b"{}"),
        (Truncated, struct.pack("<Q", 3) + b"{}"),
        (BadHeader, struct.pack("<Q", 2) + b"{]"),
        (BadHeader, struct.pack("<Q", 26) + b'{"a":{},"a":{}, "b": null}'),
        (BadHeader, struct.pack("<Q", 100_000) + b"{" + b'"a":[' * 20_000 + b"}" * 99_999),
        (BadHeader, safetensors_file(PLAIN, entry(shape=[2, 4]))),
        (BadHeader, safetensors_file(PLAIN, entry(shape=[2, -3]))),
        (BadHeader, safetensors_file(PLAIN, entry(shape=[2**62, 2**62]))),
        (BadHeader, safetensors_file(PLAIN, entry(shape=[1] * 60))),
        (BadHeader, safetensors_file(PLAIN, entry(shape="23"))),
        (BadHeader, safetensors_file(PLAIN, entry(shape=[True, 3]))),
        (BadHeader, safetensors_file(PLAIN, entry(dtype=3))),
        (FileError, safetensors_file(PLAIN, entry(dtype="F4"))),
        (BadHeader, safetensors_file(PLAIN, entry(data_offsets=[24, 0]))),
        (BadHeader, safetensors_file(PLAIN, entry(data_offsets=[1, 25]))),
        (BadHeader, safetensors_file(PLAIN, entry(data_offsets=[0.0, 24.0]))),
        (BadHeader, safetensors_file(PLAIN, entry(more=1))),
        (BadHeader, safetensors_file(PLAIN, two(0, 24))),
        (BadHeader, safetensors_file(PLAIN, two(20, 30))),
        (BadHeader, safetensors_file(PLAIN, two(25, 30))),
        (BadHeader, safetensors_file(PLAIN, lambda header: header.update(__metadata__={"a": 1}))),
        (BadValues, safetensors_file({"a": ("BOOL", (2,), b"\1\2")})),
        (TooLarge, safetensors_file({"a": ("U8", (2000,), bytes(2000))})),
    ],
)
def test_files_that_lie(error, data):
    with pytest.raises(FileError) as caught:
        imported(data, max_elements=1000)
    assert type(caught.value) is error, caught.value


# ----- bitmasks -----


def test_a_file_of_compressed_tensors():
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / "bitmask.safetensors")
    expected = {
        "layers.0.q.weight": ((7, 13, 0.3), torch.float32),
        "layers.0.k.weight": ((8, 16, 0.5), torch.bfloat16),
        "layers.1.q.weight": ((9, 5, 0.4), torch.float8_e4m3fn),
    }
    assert made.keys() == {"norm.weight", *expected}
    for name, (shape, dtype) in expected.items():
        mask = torch.from_numpy(matrix(*shape) != 0)
        values = (torch.arange(1, mask.numel() + 1) % 200 - 99.5).reshape(mask.shape)
        assert made[name].dtype == dtype and torch.equal(made[name].float(), (values * mask).to(dtype).float())


@pytest.mark.parametrize("shape", [(13,), (1, 1), (4, 8), (5, 9), (3, 2, 3, 3), (0, 4), (4, 0), (2, 0, 3)])
def test_bitmasks_of_every_shape(shape):
    random = np.random.default_rng(0)
    mask = random.random(shape) < 0.4
    values = random.standard_normal(int(mask.sum())).astype(np.float32)
    dense = np.zeros(shape, np.float32)
    dense[mask] = values
    made = imported(safetensors_file(bitmask_parts("x", mask, values)))
    assert list(made) == ["x.weight"] and np.array_equal(made["x.weight"].numpy(), dense)


def test_the_names_of_older_files():
    mask = np.eye(3, dtype=bool)
    parts = {**bitmask_parts("a.weight", mask, np.ones(3)), **bitmask_parts("a.bias", mask[0], np.ones(1))}
    parts["b.shape"] = ("I64", (1,), bytes(8))  # a tensor that happens to have such a name
    made = imported(safetensors_file(parts))
    assert made.keys() == {"a.weight", "a.bias", "b.shape"} and torch.equal(made["a.weight"], torch.eye(3))


def test_two_of_four():
    mask = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], bool)
    parts = bitmask_parts("x", mask, np.arange(1.0, 5))
    del parts["x.row_offsets"]
    parts["x.compressed"] = ("F32", (2, 2), parts["x.compressed"][2])
    made = imported(safetensors_file(parts))["x.weight"]
    assert torch.equal(made, torch.tensor([[1.0, 0, 0, 2], [0, 3, 4, 0]]))


def changed(part, dtype, shape, content):
    mask = np.array([[1, 0, 0, 1, 1], [0, 1, 1, 0, 0]], bool)
    parts = bitmask_parts("x", mask, np.arange(1.0, 6))
    parts[f"x.{part}"] = (dtype, shape, content)
    if dtype is None:
        del parts[f"x.{part}"]
    return safetensors_file(parts)


@pytest.mark.parametrize(
    "error, change",
    [
        (BadHeader, ("shape", None, None, None)),
        (BadHeader, ("shape", "I32", (2,), struct.pack("<ii", 2, 5))),
        (BadHeader, ("shape", "I64", (2,), struct.pack("<qq", 2, 50))),
        (BadHeader, ("shape", "I64", (2,), struct.pack("<qq", -2, 5))),
        (BadHeader, ("shape", "I64", (2,), struct.pack("<qq", 2**40, 2**40))),
        (BadHeader, ("shape", "I64", (0,), b"")),
        (BadHeader, ("shape", "I64", (3,), struct.pack("<qqq", 2, 5, 1))),
        (BadHeader, ("bitmask", "I8", (2, 1), b"\x19\x06")),
        (BadHeader, ("bitmask", "U8", (3, 1), b"\x19\x06\x00")),
        (BadPositions, ("bitmask", "U8", (2, 1), b"\x19\x26")),
        (BadPositions, ("bitmask", "U8", (2, 1), b"\x19\x07")),
        (BadPositions, ("bitmask", "U8", (2, 1), b"\x1d\x02")),  # as many ones, in other rows
        (BadPositions, ("compressed", "F32", (4,), bytes(16))),
        (BadHeader, ("row_offsets", "I32", (2,), bytes(8))),
        (BadHeader, ("row_offsets", "I64", (1,), bytes(8))),
        (BadPositions, ("row_offsets", "I64", (2,), bytes(16))),
    ],
)
def test_bitmasks_that_lie(error, change):
    with pytest.raises(FileError) as caught:
        imported(changed(*change))
    assert type(caught.value) is error and caught.value.tensor == "x.weight", caught.value


def test_a_bitmask_of_nothing_in_a_shape_too_large_for_numpy():
    parts = {
        "x.compressed": ("F32", (0,), b""),
        "x.bitmask": ("U8", (0,), b""),
        "x.shape": ("I64", (3,), np.array([0, 2**40, 2**40], "<i8").tobytes()),
    }
    with pytest.raises(BadHeader) as caught:
        imported(safetensors_file(parts))
    assert caught.value.tensor == "x.weight"


def test_the_limit_counts_what_is_made():
    mask = np.zeros((100, 100), bool)
    with pytest.raises(TooLarge):
        imported(safetensors_file(bitmask_parts("x", mask, np.ones(0))), max_elements=9_999)


def test_without_torch():
    code = """
import sys; sys.modules["torch"] = None
import io, numpy as np, mpl_sparse
sys.path.append(sys.argv[1])
import foreign_samples
from foreign_samples import safetensors_file
halves = np.array([1.0, -2.5], np.float32).view(np.uint32) >> 16
data = safetensors_file({"a": ("BF16", (2,), halves.astype("<u2").tobytes()), "b": ("I16", (1, 2), b"\\1\\0\\2\\0")})
made = mpl_sparse.import_legacy(io.BytesIO(data))
assert made["a"].tolist() == [1.0, -2.5] and made["a"].dtype == np.float32 and made["b"].tolist() == [[1, 2]]
made["b"] += 1
try:
    mpl_sparse.import_legacy(foreign_samples.GOLDEN / "bitmask.safetensors")
except ValueError as error:
    assert "F8_E4M3" in str(error) and "layers.1.q.weight" in str(error), error
else:
    raise SystemExit("numpy has no float8")
assert "torch" not in sys.modules or sys.modules["torch"] is None
"""
    folder = str(foreign_samples.GOLDEN.parents[2])
    result = subprocess.run([sys.executable, "-c", code, folder], env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
