"""Pickles made to do harm: each ends in a FileError, runs nothing, and takes neither memory nor time."""

import ast
import builtins
import copyreg
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc

import foreign_samples
import numpy as np
import pytest
from foreign_samples import Calls, name, plain, text
from hypothesis import settings

import mpl_sparse
from mpl_sparse.serializer import BadPickle, FileError, ForbiddenPickle, TooLarge, legacy

torch = pytest.importorskip("torch")
SHARE = settings().max_examples / settings.get_profile("mpl_sparse").max_examples  # a fifth where it is emulated

MEMO, GET = b"\x94", lambda index: b"h" + bytes([index])
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
ORDERED = name("collections", "OrderedDict") + b")R"
STORAGE = name("torch.storage", "_load_from_bytes")


def number(value):
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def stored(content):
    """The call that loads a storage from bytes."""
    return STORAGE + b"B" + struct.pack("<I", len(content)) + content + b"\x85R"


def stream(obj):
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


FLOATS = stream(torch.arange(6.0).untyped_storage())
DEEP = b")" + b"\x85" * 10**6  # a tuple in a tuple in ...
INTEGERS = pickle.loads(pickle.dumps(torch.zeros(1, dtype=torch.int64))).__reduce_ex__(2)[1][0].__reduce__()[1][0]
TYPED = pickle.loads(pickle.dumps(torch.arange(6.0))).__reduce_ex__(2)[1][0].__reduce__()[1][0]


def tensor(size=b"K\x06\x85", stride=b"K\x01\x85", offset=b"K\x00", content=TYPED, grad=b"\x89", more=b""):
    return plain(REBUILD, b"(", stored(content), offset, size, stride, grad, ORDERED, more, b"tR")


def sparse(layout, *arguments):
    """The call that makes a sparse tensor of parts of integers."""
    layout = name("torch.serialization", "_get_layout") + layout + b"\x85R"
    return plain(name("torch._utils", "_rebuild_sparse_tensor"), layout, b"(", *arguments, b"t\x86R")


def expanded(*sizes):
    """The call that makes a tensor of zeros of this size, from one number in memory."""
    size, stride = (b"(" + b"".join(map(number, of)) + b"t" for of in (sizes, (0,) * len(sizes)))
    return tensor(size, stride, content=INTEGERS)[2:-1]


def laughs(empty, append, depth):
    """A list that holds twice what holds twice ... a list: 2^depth of them, in few bytes."""
    return plain(empty, MEMO, *(b"]" + MEMO + GET(at) + append + GET(at) + append for at in range(depth)))


def exploit(protocol, function, *arguments, **options):
    return pickle.dumps({"weight": Calls(function, *arguments, **options)}, protocol)


HOSTILE = {
    # what would be called
    **{f"os.system, protocol {p}": (ForbiddenPickle, exploit(p, os.system, "echo ran")) for p in (2, 3, 4, 5)},
    **{
        f"builtins.{f}": (ForbiddenPickle, exploit(4, getattr(builtins, f), "1"))
        for f in ("eval", "exec", "__import__")
    },
    "builtins.getattr": (ForbiddenPickle, exploit(4, getattr, str, "join")),
    "subprocess": (ForbiddenPickle, exploit(4, subprocess.Popen, ["true"])),
    "torch.load": (ForbiddenPickle, exploit(4, torch.load, "file")),
    "torch.hub": (ForbiddenPickle, plain(name("torch.hub", "load"))),
    "numpy.load": (ForbiddenPickle, plain(name("numpy", "load"))),
    "a function of this library": (ForbiddenPickle, plain(name("mpl_sparse.serializer.legacy.stream", "follow"))),
    "nested names": (ForbiddenPickle, plain(name("torch", "serialization.os.system"))),
    "nested names of a known module": (ForbiddenPickle, plain(name("torch._utils", "sys.modules"))),
    "names with a dot at an end": (ForbiddenPickle, plain(name("", "torch.Size"))),
    "a name in two lines": (ForbiddenPickle, b"\x80\x02cos\nsystem\nU\x04true\x85R."),
    "a name that does not end": (BadPickle, b"\x80\x02c" + b"a" * 1000),
    "a name that is a number": (BadPickle, plain(b"K\1", text("a"), b"\x93")),
    "copyreg._reconstructor": (ForbiddenPickle, exploit(4, copyreg._reconstructor, dict, dict, {})),
    "copyreg.__newobj__": (ForbiddenPickle, plain(name("copyreg", "__newobj__"), name("os", "system") + b"\x85R")),
    "copyreg.__newobj_ex__": (ForbiddenPickle, plain(name("copyreg", "__newobj_ex__"))),
    "a class with a state": (ForbiddenPickle, exploit(4, pathlib.PurePath, "a", state={"x": 1})),
    "a module with a state": (ForbiddenPickle, plain(name("torch.nn.modules.linear", "Linear"), b")\x81}b")),
    "a parameter of no tensor": (BadPickle, plain(name("torch.nn.parameter", "Parameter"), b")\x81}b")),
    "the state of a tensor": (BadPickle, plain(name("torch", "Tensor"), b")\x81}b")),
    "the state of a list": (BadPickle, plain(b"]}b")),
    "a bare class": (FileError, plain(name("torch", "Size"))),
    "a bare function": (FileError, plain(REBUILD)),
    "a call of a dtype": (BadPickle, plain(name("torch", "float32"), b")R")),
    "a call of a string": (BadPickle, plain(text("os.system"), b")R")),
    "a call with a list": (BadPickle, plain(REBUILD, b"]R")),
    "a call of a call": (BadPickle, plain(REBUILD, b")R)R")),
    # opcodes
    "protocol 0": (FileError, b"cos\nsystem\n(S'true'\ntR."),
    "protocol 0 within": (BadPickle, plain(b"I1\n")),
    "protocol 6": (BadPickle, b"\x80\x06N."),
    "protocol twice": (BadPickle, b"\x80\x04\x80\x04N."),
    "INST": (BadPickle, plain(b"(ios\nsystem\n")),
    "OBJ": (BadPickle, plain(b"(", REBUILD, b"o")),
    "EXT1": (BadPickle, plain(b"\x82\x01")),
    "NEWOBJ_EX": (BadPickle, plain(REBUILD, b")}\x92")),
    "a persistent id": (FileError, plain(text("x"), b"Q")),
    "a persistent module": (FileError, plain(b"(", text("module"), text("x"), b"tQ)R")),
    "an out-of-band buffer": (BadPickle, plain(b"\x97")),
    "nothing": (BadPickle, b"\x80\x04"),
    "no object": (BadPickle, plain()),
    "two objects": (BadPickle, plain(b"NN")),
    "a mark": (BadPickle, plain(b"(")),
    "a mark as an argument": (BadPickle, plain(REBUILD, b"(R")),
    "a mark remembered": (BadPickle, plain(b"(", MEMO)),
    "what was not remembered": (BadPickle, plain(GET(7))),
    "items of no dict": (BadPickle, plain(b"](NNu")),
    "a key without a value": (BadPickle, plain(b"}(Nu")),
    "a key that is a list": (BadPickle, plain(b"}(]Nu")),
    "a key that is a tuple": (BadPickle, plain(b"}()Nu")),
    "a key of 200 bytes": (BadPickle, plain(b"}(", number(2**1500), b"Nu")),
    "text that is none": (BadPickle, plain(b"\x8c\x01\xff")),
    # memory
    "a long string": (BadPickle, plain(b"\x8d" + struct.pack("<Q", 2**60))),
    "long bytes": (BadPickle, plain(b"\x8e" + struct.pack("<Q", 2**62) + b"abc")),
    "a long bytearray": (BadPickle, plain(b"\x96" + struct.pack("<Q", 2**31))),
    "a far memo": (BadPickle, plain(b"Nr" + struct.pack("<I", 2**32 - 1), b"Nj" + struct.pack("<I", 2**32 - 2))),
    "a billion laughs": (BadPickle, laughs(b"]", b"a", 60)),
    "laughs in tuples": (BadPickle, plain(b")", MEMO, *(GET(at) + GET(at) + b"\x86" + MEMO for at in range(60)))),
    "laughs in dicts": (
        BadPickle,
        plain(b"}", MEMO, *(b"}" + MEMO + b"(K\1" + GET(at) + b"K\2" + GET(at) + b"u" for at in range(60))),
    ),
    "a list in itself": (BadPickle, plain(b"]", MEMO, GET(0), b"a")),
    "a dict in itself": (BadPickle, plain(b"}", MEMO, b"K\1", GET(0), b"s")),
    "a list a hundred thousand deep": (BadPickle, plain(b"]" * 10**5, b"a" * (10**5 - 1))),
    "a tuple a hundred thousand deep": (BadPickle, plain(b")" + b"\x85" * 10**5)),
    "a layout a million deep": (BadPickle, sparse(DEEP, *3 * [expanded(1)], b"K\3\x85")),
    "bytes a million deep": (BadPickle, plain(name("_codecs", "encode"), DEEP, text("latin1"), b"\x86R")),
    "a version a million deep": (BadPickle, FLOATS[: FLOATS.index(b".") + 1] + plain(DEEP) + plain(b"}")),
    "a dtype a million deep": (
        FileError,
        plain(name("numpy.core.multiarray", "scalar"), name("numpy", "dtype"), DEEP, b"\x85RC\1a\x86R"),
    ),
    "names of a megabyte": (
        BadPickle,
        plain(b"}X" + struct.pack("<I", 10**6) + b"k" * 10**6 + b"](", b"NNes"),
    ),
    "calls of calls": (BadPickle, plain(REBUILD, MEMO, b")R" + (b"\x85" + b"R") * 3)),
    "many empty dicts": (BadPickle, plain(b"(" + b"}" * 10**5)),
    # tensors
    "no arguments": (BadPickle, plain(REBUILD, b")R")),
    "a storage that is a number": (BadPickle, plain(REBUILD, b"(K\1K\0)", b")\x89", ORDERED, b"tR")),
    "a storage that is no bytes": (BadPickle, plain(REBUILD, b"(", STORAGE, b"N\x85R", b"K\0))\x89", ORDERED, b"tR")),
    "a storage of empty bytes": (BadPickle, tensor(content=b"")),
    "a storage that is a pickle": (ForbiddenPickle, tensor(content=exploit(2, os.system, "true"))),
    "a storage in a storage": (FileError, tensor(content=pickle.dumps(torch.ones(2).storage(), 2))),
    "a storage that is a tensor": (ForbiddenPickle, tensor(content=stream(torch.ones(2)))),
    "a storage cut short": (FileError, tensor(content=TYPED[:-1])),
    "a storage with more": (FileError, tensor(content=TYPED + b"x")),
    "a storage with an exploit behind it": (FileError, tensor(content=TYPED + exploit(2, os.system, "true"))),
    "another number of elements": (FileError, tensor(content=TYPED[:-32] + struct.pack("<q", 7) + TYPED[-24:])),
    "a negative number of elements": (FileError, tensor(content=TYPED[:-32] + struct.pack("<q", -6) + TYPED[-24:])),
    "too large a size": (BadPickle, tensor(size=b"K\7\x85")),
    "a huge size": (BadPickle, tensor(size=number(2**60) + b"\x85")),
    "a product that overflows": (BadPickle, tensor(size=number(2**40) + number(2**40) + b"\x86", stride=b"K\0K\0\x86")),
    "a negative size": (BadPickle, tensor(size=number(-1) + b"\x85")),
    "a size that is true": (BadPickle, tensor(size=b"\x88\x85")),
    "a size that is a float": (BadPickle, tensor(size=b"G" + struct.pack(">d", 6.0) + b"\x85")),
    "a size that is a string": (BadPickle, tensor(size=text("6"))),
    "a size of many axes": (BadPickle, tensor(size=b"(" + b"K\1" * 65 + b"t", stride=b"(" + b"K\1" * 65 + b"t")),
    "a negative stride": (BadPickle, tensor(stride=number(-1) + b"\x85")),
    "too few strides": (BadPickle, tensor(stride=b")")),
    "an offset beyond the end": (BadPickle, tensor(offset=b"K\1")),
    "a negative offset": (BadPickle, tensor(offset=number(-1))),
    "a huge offset of nothing": (BadPickle, tensor(size=b"K\0\x85", offset=number(2**70))),
    "expanded to much": (TooLarge, tensor(size=number(2**33) + b"\x85", stride=b"K\0\x85")),
    "indices expanded to much": (
        BadPickle,
        sparse(text("torch.sparse_coo"), expanded(2**40, 1), expanded(1), b"K\3\x85"),
    ),
    "a gradient of integers": (BadPickle, tensor(b"K\1\x85", content=INTEGERS, grad=b"\x88")),
    "a parameter of integers": (
        BadPickle,
        plain(name("torch._utils", "_rebuild_parameter"), expanded(1), b"\x88", ORDERED, b"\x87R"),
    ),
    "a gradient that is a number": (BadPickle, tensor(grad=b"K\1")),
    "more arguments": (FileError, tensor(more=b"}" + b"K\1K\2\x86")),
    "an array of objects": (FileError, pickle.dumps(np.array([None, "a"], object))),
    "an array of strings": (FileError, pickle.dumps(np.array(["a", "b"]))),
    "an array of records": (FileError, pickle.dumps(np.zeros(3, "i4,f8"))),
    "an array of dates": (FileError, pickle.dumps(np.zeros(3, "M8[s]"))),
    "a big-endian array": (FileError, pickle.dumps(np.zeros(3, ">f4"))),
    "a dtype of no name": (FileError, pickle.dumps(np.zeros(3, np.int8)).replace(b"i1", b"V9")),
    "an array of bools that are 2": (FileError, pickle.dumps(np.array([True])).replace(b"C\x01\x01", b"C\x01\x02")),
}


def imported(data, **options):
    return mpl_sparse.import_legacy(io.BytesIO(data), **options)


def test_a_tensor_made_by_hand_is_one():
    assert torch.equal(imported(tensor(b"K\1\x85", number(2**62) + b"\x85")), torch.zeros(1))  # no stride is taken
    assert torch.equal(imported(tensor()), torch.arange(6.0))
    assert torch.equal(imported(tensor(b"K\2K\2\x86", b"K\3K\1\x86", b"K\1")), torch.tensor([[1.0, 2], [4, 5]]))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle(what):
    error, data = HOSTILE[what]
    tracemalloc.start()
    try:
        with pytest.raises(FileError) as caught:
            imported(data)
        assert tracemalloc.get_traced_memory()[1] < 130 * len(data) + 2**20
        assert type(caught.value) is error or error is FileError, caught.value
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", HOSTILE)
def test_load_never_comes_here(what):
    with pytest.raises(FileError):
        mpl_sparse.loads(HOSTILE[what][1])


def test_the_number_of_opcodes_is_limited():
    with pytest.raises(BadPickle, match="more than 3000000 opcodes"):
        imported(plain(b"N" * 3_000_000))


def test_an_error_names_the_tensor():
    data = pickle.dumps({"layers": [torch.ones(2), {"w": torch.ones(6)}]}).replace(b"K\x06\x85", b"K\x07\x85")
    with pytest.raises(BadPickle, match="tensor 'layers.1.w'") as caught:
        imported(data)
    assert caught.value.tensor == "layers.1.w"


AUDIT = """
import io, pathlib, pickle, sys
import mpl_sparse
folder = pathlib.Path(sys.argv[1])
files = [path.read_bytes() for path in sorted(folder.iterdir())]

def all_of_them():
    for data in files:
        try:
            mpl_sparse.import_legacy(io.BytesIO(data))
        except ValueError:
            pass

all_of_them()  # what is imported at the first use
before = set(sys.modules)
heard = []
sys.addaudithook(lambda event, arguments: heard.append(event))
all_of_them()
print(sorted(set(heard)), sorted(set(sys.modules) - before))
"""


def test_nothing_is_run_imported_or_opened(tmp_path):
    files = [*foreign_samples.GOLDEN.iterdir()]
    for number, data in enumerate([*(path.read_bytes() for path in files), *(data for _, data in HOSTILE.values())]):
        if len(data) < 100_000:
            (tmp_path / f"{number:03}").write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", AUDIT, str(tmp_path)], env=os.environ, capture_output=True, text=True
    )
    assert result.returncode == 0 and "ran" not in result.stdout.split(), result.stderr
    events, modules = (set(ast.literal_eval(each + "]")) for each in result.stdout.strip().split("]")[:2])
    quiet = {
        "object.__getattr__",
        "object.__setattr__",
        "sys._getframe",
        "array.__new__",
        "code.__new__",
        "builtins.id",
    }
    assert not modules and events - quiet <= {"import"}  # of torch, where there is none; and of nothing else


def test_pickle_is_not_used():
    for path in pathlib.Path(legacy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                assert not {"pickle", "pickletools", "copyreg", "importlib", "torch"} & {n.split(".")[0] for n in names}


# ----- mutants -----


def mutants(data, random, count):
    """Bits changed; bytes replaced, removed, put in, moved; cut."""
    opcodes = b"(NKMJXBCtRb]}ueasqhrjcQ.)\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8d\x8e\x8f\x90\x93\x94\x95\x96"
    for _ in range(count):
        start, stop = sorted(random.integers(0, len(data) + 1, 2))
        piece = bytes(random.integers(0, 256, random.integers(1, 9), np.uint8))
        if random.random() < 0.5:
            piece = bytes(opcodes[at] for at in random.integers(0, len(opcodes), random.integers(1, 4)))
        at = int(random.integers(len(data)))
        yield [
            data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :],
            data[:start] + piece + data[start + len(piece) :],
            data[:start] + data[start + int(random.integers(1, 9)) :],
            data[:start] + data[stop:],
            data[:start] + piece + data[start:],
            data[:start] + data[start:stop] * 2 + data[stop:],
            data[:start],
        ][random.integers(7)]


def samples():
    files = {path.name: path.read_bytes() for path in sorted(foreign_samples.GOLDEN.iterdir())}
    files["numpy"] = pickle.dumps([np.arange(6.0).reshape(2, 3).T, np.float32(3), {1, 2}], 4)
    files["parameter"] = pickle.dumps({"p": torch.nn.Parameter(torch.ones(3)), "c": torch.eye(3).to_sparse_csr()})
    return files


@pytest.mark.parametrize("sample", samples())
def test_mutants(sample):
    data, random, outcomes = samples()[sample], np.random.default_rng(3), {}
    for mutant in mutants(data, random, int(1500 * SHARE)):
        try:
            made = imported(mutant, max_elements=10**5)
        except FileError as error:
            outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
        else:
            outcomes["made"] = outcomes.get("made", 0) + 1
            assert count(made) <= 10**5 + len(mutant)
    assert len(outcomes) >= 3, outcomes


def test_mutants_of_a_pickle_in_an_archive():
    """As above, with the checksums of the archive in order."""
    import zipfile

    with zipfile.ZipFile(foreign_samples.GOLDEN / "torch.pt") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (inner,) = (name for name in members if name.endswith("data.pkl"))
    random, outcomes = np.random.default_rng(4), {}
    for mutant in mutants(members[inner], random, int(1500 * SHARE)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, content in {**members, inner: mutant}.items():
                archive.writestr(member, content)
        try:
            made = imported(buffer.getvalue(), max_elements=10**5)
        except FileError as error:
            outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
        else:
            outcomes["made"] = outcomes.get("made", 0) + 1
            assert count(made) <= 10**5 + len(mutant)
    assert len(outcomes) >= 3, outcomes


def count(obj):
    """The elements of an object's tensors, all of which are looked at."""
    if isinstance(obj, torch.Tensor):
        stored = (
            obj._values() if obj.layout == torch.sparse_coo else obj.values() if obj.layout != torch.strided else obj
        )
        stored.detach().cpu().clone()
        return stored.numel()
    if isinstance(obj, np.ndarray):
        return obj.copy().size
    if isinstance(obj, dict):
        return sum(map(count, obj.values()))
    return sum(map(count, obj)) if isinstance(obj, (list, tuple, set)) else 1
