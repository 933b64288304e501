"""Files of torch.save, of both containers, against torch.load(weights_only=True)."""

import io
import struct
import zipfile
from collections import OrderedDict

import foreign_samples
import numpy as np
import pytest

import mpl_sparse
from mpl_sparse.serializer import (
    BadArchive,
    BadPickle,
    BadValues,
    ChecksumMismatch,
    FileError,
    ForbiddenPickle,
    TooLarge,
    Truncated,
    UnknownFormat,
)

torch = pytest.importorskip("torch")
CONTAINERS = [{}, {"_use_new_zipfile_serialization": False}]
containers = pytest.mark.parametrize("options", CONTAINERS, ids=["archive", "stream"])


def saved(obj, options=CONTAINERS[0]):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def imported(data, **options):
    return mpl_sparse.import_legacy(io.BytesIO(data), **options)


def assert_same(made, tensor):
    assert type(made) is type(tensor) and made.dtype == tensor.dtype and made.shape == tensor.shape
    assert made.layout == tensor.layout and made.requires_grad == tensor.requires_grad
    if tensor.layout != torch.strided:
        if tensor.layout == torch.sparse_coo:
            assert made.is_coalesced() == tensor.is_coalesced()
        made, tensor = made.detach().to_dense(), tensor.detach().to_dense()
    assert mpl_sparse.dumps([made.detach()]) == mpl_sparse.dumps([tensor.detach()])  # bit for bit


DTYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128"
MORE_DTYPES = "uint16 uint32 uint64 float8_e4m3fn float8_e5m2"


@containers
@pytest.mark.parametrize("dtype", DTYPES.split() + MORE_DTYPES.split())
def test_every_dtype(dtype, options):
    for shape in ((), (0,), (3, 0, 2), (5, 3)):
        tensor = (torch.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).to(getattr(torch, dtype))
        data = saved({"a": tensor}, options)
        assert_same(imported(data)["a"], tensor)
        if not options or dtype in DTYPES.split():  # torch cannot read back what it writes into a stream of the others
            assert_same(imported(data)["a"], torch.load(io.BytesIO(data), weights_only=True)["a"])


@containers
def test_views_parameters_and_layouts(options):
    base = torch.randn(6, 8)
    base[base < 0] = -0.0
    base[0, 0] = torch.nan
    objects = {
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "expanded": base[:1, :1].expand(4, 5),
        "offset": base[2, 3],
        "parameter": torch.nn.Parameter(base.clone()),
        "frozen": torch.nn.Parameter(base.clone(), requires_grad=False),
        "grad": torch.ones(2, requires_grad=True),
        "coo": base.relu().to_sparse(),
        "uncoalesced": torch.sparse_coo_tensor([[1, 1], [0, 0]], [2.0, 3.0], (4, 5)),
        "hybrid": torch.sparse_coo_tensor([[1, 2]], torch.randn(2, 3), (4, 3)),
        "vector": torch.eye(9)[2].to_sparse(),
        "empty": torch.zeros(3, 4).to_sparse(),
        "csr": base.to_sparse_csr(),
        "csr32": torch.sparse_csr_tensor(
            torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([2, 0], dtype=torch.int32), torch.ones(2), (2, 3)
        ),
        "csc": base.to_sparse_csc(),
        "bsr": base.to_sparse_bsr((2, 2)),
        "bsc": base.to_sparse_bsc((2, 2)),
    }
    made = imported(saved(objects, options))
    assert list(made) == list(objects)
    for name, tensor in objects.items():
        assert_same(made[name], tensor.detach() if name == "grad" and not made[name].requires_grad else tensor)
    again = mpl_sparse.loads(mpl_sparse.dumps(made))
    for name, tensor in objects.items():
        assert_same(again[name], tensor)


@containers
def test_checkpoints(options):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    model[2].bias = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam(model.parameters())
    model[0](torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": np.float64(0.5),
        "history": [np.arange(6.0).reshape(2, 3).T, np.array([], np.int8), b"bytes", b""],
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "shape": torch.Size([2, 3]),
        "names": {"a", "b"},
        "huge": -(2**70),
        "nested": OrderedDict(a=(1, 2.5, None, True, "\u20ac", float("inf"))),
        "tied": model[2].weight,
        "tied too": model[2].weight,
    }
    made = imported(saved(checkpoint, options))
    assert isinstance(made["model"], OrderedDict) and made["model"]._metadata == checkpoint["model"]._metadata
    for state in (made["model"], mpl_sparse.loads(mpl_sparse.dumps(made["model"]))):
        twin = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
        twin.load_state_dict(state)
        assert all(torch.equal(one, other) for one, other in zip(twin.parameters(), model.parameters()))
    twin = torch.optim.Adam(model.parameters())
    twin.load_state_dict(made["optimizer"])
    assert torch.equal(twin.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert made["best"] == 0.5 and type(made["best"]) is np.float64
    assert np.array_equal(made["history"][0], checkpoint["history"][0]) and made["history"][1].dtype == np.int8
    assert made["history"][2:] == [b"bytes", b""]
    assert made["device"] == "cpu" and made["dtype"] == "torch.float16" and made["shape"] == (2, 3)
    for name in ("epoch", "names", "huge", "nested"):
        assert made[name] == checkpoint[name] and type(made[name]) is type(checkpoint[name])
    assert made["tied"] is made["tied too"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@containers
def test_pickle_protocols(protocol, options):
    obj = {"a": torch.arange(5.0), "n": np.arange(4), "s": {1, 2}, "b": b"", "x": "x" * 300}
    made = imported(saved(obj, {**options, "pickle_protocol": protocol}))
    assert torch.equal(made["a"], obj["a"]) and np.array_equal(made["n"], obj["n"])
    assert made["s"] == {1, 2} and made["b"] == b"" and made["x"] == "x" * 300


@pytest.mark.parametrize("name", ["torch.pt", "torch_old.pt"])
def test_golden_files(name):
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / name)
    expected = foreign_samples.matrix(7, 13, 0.5)
    assert np.array_equal(made["weight"].numpy(), expected) and made["tied"] is made["weight"]
    assert np.array_equal(made["coo"].to_dense().numpy(), expected) and made["coo"].is_coalesced()
    assert made["half"].dtype == torch.float16 and made["steps"] == [1, 2.5, None, "x"]


def test_what_is_imported_is_its_own():
    data = bytearray(saved([torch.ones(3), torch.ones(3)[:2]]))
    one, other = imported(bytes(data))
    one += 1
    assert torch.equal(other, torch.ones(2))


@containers
def test_modules_are_refused(options):
    class Local(torch.nn.Module):
        pass

    Local.__qualname__ = "Local"
    globals()["Local"] = Local
    for module in (torch.nn.Linear(2, 3), Local()):
        with pytest.raises(ForbiddenPickle, match=r"save its state_dict\(\)"):
            imported(saved(module, options))


def test_what_torch_has_and_the_format_has_not():
    for obj in (torch.ones(2, device="meta"), torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)):
        with pytest.raises(ForbiddenPickle, match="torch"):
            imported(saved({"a": obj}))
    with pytest.raises(FileError, match="conjugate"):
        imported(saved({"a": torch.ones(2, dtype=torch.complex64).conj()}))


def test_limits():
    data = saved({"a": torch.ones(10), "b": torch.ones(1).expand(1000)})
    with pytest.raises(TooLarge, match="tensor 'b': the file makes 1010 elements") as caught:
        imported(data, max_elements=1009)
    assert caught.value.tensor == "b" and imported(data, max_elements=1010)["b"].shape == (1000,)
    for bad in (-1, 1.5, "3", True):
        with pytest.raises(ValueError, match="max_elements"):
            imported(data, max_elements=bad)


# ----- archives that lie -----


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def archive(contents, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in contents.items():
            made.writestr(name, content)
    return buffer.getvalue()


DATA = saved({"a": torch.arange(100.0), "flags": torch.tensor([True, False])})
MEMBERS = members(DATA)


def changed(**changes):
    contents = {name.rpartition("/")[2]: name for name in MEMBERS}
    return archive({**MEMBERS, **{contents.get(name, f"archive/{name}"): data for name, data in changes.items()}})


def central(data, offset, value):
    """The archive with a number changed in the entry of data/0 in its directory."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    return data[: at + offset] + value + data[at + offset + len(value) :]


def test_an_archive_that_zipfile_wrote():
    assert torch.equal(imported(archive(MEMBERS))["a"], torch.arange(100.0))


@pytest.mark.parametrize(
    "error, data",
    [
        (BadArchive, archive(MEMBERS, zipfile.ZIP_DEFLATED)),
        (BadArchive, archive({"archive/data.pkl": MEMBERS["archive/data.pkl"]})),
        (BadArchive, changed(**{"0": b"short"})),
        (BadValues, changed(**{"1": b"\1\2"})),
        (ChecksumMismatch, DATA.replace(np.arange(100, dtype="<f4").tobytes(), bytes(400))),
        (BadArchive, central(DATA, 20, struct.pack("<II", 2**31, 2**31))),
        (ChecksumMismatch, central(DATA, 20, struct.pack("<II", 300, 300))),
        (BadArchive, central(DATA, 24, struct.pack("<I", 300))),
        (BadArchive, central(DATA, 42, struct.pack("<I", 2**31))),
        (BadArchive, central(DATA, 42, struct.pack("<I", 7))),
        (BadArchive, central(DATA, 8, b"\1")),  # encrypted
        (BadArchive, DATA[:-30]),
        (BadArchive, DATA[: len(DATA) // 2]),
        (BadArchive, b"PK\x03\x04"),
        (UnknownFormat, archive({"a.npy": b"x"})),
        (UnknownFormat, archive({"a/data.pkl": b"", "b/data.pkl": b""})),
        (ForbiddenPickle, changed(**{"constants.pkl": b""})),
        (FileError, changed(byteorder=b"big")),
        (BadPickle, changed(**{"data.pkl": b""})),
    ],
)
def test_archives_that_lie(error, data):
    with pytest.raises(FileError) as caught:
        imported(data)
    assert type(caught.value) is error, caught.value


def test_an_archive_without_checksums():
    at, data = 0, bytearray(DATA)
    for signature, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16), (b"PK\x07\x08", 4)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 4] = bytes(4)
            at = data.find(signature, at + 1)
    assert torch.equal(imported(bytes(data))["a"], torch.load(io.BytesIO(bytes(data)), weights_only=True)["a"])


@pytest.mark.parametrize("cut", [1, 8, 9, 100, 399, 420])
def test_streams_that_end_early(cut):
    data = saved(torch.arange(100.0), CONTAINERS[1])
    with pytest.raises(Truncated if cut <= 408 else BadPickle):
        imported(data[:-cut])
    with pytest.raises(Truncated):
        imported(data + b"x" * cut)


@pytest.mark.parametrize(
    "data, what",
    [
        (b"", "a file of 0 bytes"),
        (b"text", "a file of 4 bytes"),
        (mpl_sparse.dumps({}), "a file of mpl_sparse.save"),
        (b"\x93NUMPY" + bytes(100), "a file of 106 bytes"),
        (bytes(257) + b"ustar" + bytes(250), "a tar file"),
    ],
)
def test_files_of_other_kinds(data, what):
    with pytest.raises(UnknownFormat, match=what):
        imported(data)
