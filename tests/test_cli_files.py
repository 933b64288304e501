"""`mpl-sparse inspect` and `mpl-sparse convert`, without torch where it is not asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import file_samples
import numpy as np
import pytest

import mpl_sparse
from mpl_sparse import cli
from mpl_sparse.serializer import conversion

GOLDEN = file_samples.FOLDER / "golden"


@pytest.fixture
def weights():
    """Two arrays that are sparse, one that is not, and one of no elements."""
    random = np.random.default_rng(0)
    sparse = np.where(random.random((40, 30)) < 0.1, random.standard_normal((40, 30)), 0).astype(np.float32)
    return {"a": sparse, "b": np.arange(5, dtype=np.int64), "c": sparse[:, :7] != 0, "empty": np.empty((0, 3))}


def run(*arguments, capsys):
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def assert_equal(made, expected):
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        found = np.asarray(made[name])  # import_legacy makes torch tensors where there is torch
        assert found.dtype == array.dtype and np.array_equal(found, array), name


@pytest.mark.parametrize("name", sorted(set(file_samples.GOLDEN)))
def test_inspect_tells_what_inspect_tells(name, capsys):
    path = GOLDEN / f"{name}.mpl"
    status, out, err = run("inspect", path, capsys=capsys)
    assert (status, err) == (0, "")
    for tensor in mpl_sparse.inspect(path):
        line = next(line for line in out.splitlines() if line.startswith(tensor.name))
        assert tensor.encoding in line and f"{tensor.nbytes:,}" in line and tensor.dtype in line
    assert f"{path.stat().st_size:,} bytes" in out
    status, out, _ = run("inspect", path, "--json", capsys=capsys)
    told = json.loads(out)
    assert [tensor["name"] for tensor in told["tensors"]] == [tensor.name for tensor in mpl_sparse.inspect(path)]


def test_what_cannot_be_inspected(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("no such thing" * 20)
    for path in (tmp_path / "none.mpl", tmp_path / "text.txt", tmp_path):
        status, out, err = run("inspect", path, capsys=capsys)
        assert status == 1 and not out and len(err.splitlines()) == 1 and path.name in err


def test_names_that_do_not_fit_the_terminal(tmp_path):
    source = tmp_path / "source.mpl"
    mpl_sparse.save({"\u00e9\u6f22": np.ones(3)}, source)
    options = {"env": {**os.environ, "PYTHONIOENCODING": "ascii"}, "capture_output": True, "text": True}
    for arguments in (["inspect", source], ["convert", source, os.fsencode(tmp_path) + b"/\xff.mpl"]):
        result = subprocess.run([sys.executable, "-m", "mpl_sparse", *arguments], **options)
        assert (result.returncode, result.stderr) == (0, "")
        assert ("\\xe9\\u6f22" if arguments[0] == "inspect" else "\\udcff.mpl") in result.stdout


def test_what_takes_more_memory_than_there_is(tmp_path, monkeypatch, capsys):
    source = tmp_path / "source.mpl"
    mpl_sparse.save(np.ones(3), source)
    monkeypatch.setattr(conversion, "read", lambda *_: bytearray(sys.maxsize))
    status, out, err = run("convert", source, tmp_path / "target.mpl", capsys=capsys)
    assert (status, out, err) == (1, "", "mpl-sparse convert: there is not enough memory\n")
    assert os.listdir(tmp_path) == ["source.mpl"]


def test_convert_there_and_back(tmp_path, weights, capsys):
    ours, plain, again = (tmp_path / name for name in ("ours.mpl", "plain.safetensors", "again.mpl"))
    mpl_sparse.save(weights, ours)
    assert run("convert", ours, plain, "--dense", capsys=capsys)[0] == 0
    assert_equal(mpl_sparse.import_legacy(plain), weights)
    status, out, _ = run("convert", plain, again, capsys=capsys)
    assert status == 0 and out.startswith(str(again))
    made = mpl_sparse.load(again)
    assert_equal(made, weights)
    assert {tensor.name: tensor.encoding for tensor in mpl_sparse.inspect(again)}["a"] == "golomb"


def test_the_options_are_those_of_save(tmp_path, weights, capsys):
    pytest.importorskip("zstandard")
    ours, small = tmp_path / "ours.mpl", tmp_path / "small.mpl"
    mpl_sparse.save({**weights, "ones": np.ones((300, 300))}, ours)
    assert run("convert", ours, small, "--compress", "zstd", "--dtype", "float16", capsys=capsys)[0] == 0
    assert small.stat().st_size < ours.stat().st_size / 4
    made = mpl_sparse.load(small)
    assert np.array_equal(made["a"], weights["a"].astype(np.float16)) and made["a"].dtype == np.float32


def test_zeros_without_their_signs(tmp_path, weights, capsys):
    """What `weight * mask` makes: half of its zeros are -0.0."""
    mask = weights["a"] != 0
    signed = np.random.default_rng(1).standard_normal(mask.shape).astype(np.float32) * mask
    dense = {"f32": signed, "f64": signed.astype(np.float64), "f16": signed.astype(np.float16), "c64": signed + 0j}
    dense = {**dense, "c128": dense["c64"].astype(np.complex128) * -1, "i32": np.full((40, 30), -(2**31), np.int32)}
    ours, small, exact = (tmp_path / name for name in ("ours.mpl", "small.mpl", "exact.mpl"))
    mpl_sparse.save(dense, ours)
    assert run("convert", ours, small, "--unsigned-zeros", capsys=capsys)[0] == 0
    assert run("convert", ours, exact, capsys=capsys)[0] == 0
    assert_equal(mpl_sparse.load(small), dense)  # 0.0 == -0.0
    assert {tensor.name: tensor.nnz for tensor in mpl_sparse.inspect(small)} == {
        name: array.size if name == "i32" else np.count_nonzero(array) for name, array in dense.items()
    }
    for name, array in mpl_sparse.load(exact).items():
        assert array.tobytes() == dense[name].tobytes(), name
    assert small.stat().st_size < exact.stat().st_size / 2
    plain, again = tmp_path / "plain.safetensors", tmp_path / "again.mpl"
    assert run("convert", ours, plain, "--dense", capsys=capsys)[0] == 1  # no C128 in safetensors
    mpl_sparse.save({"f32": dense["f32"]}, ours)
    assert run("convert", ours, plain, "--dense", capsys=capsys)[0] == 0
    assert run("convert", plain, again, "--unsigned-zeros", "--dtype", "bfloat16", capsys=capsys)[0] == 0
    assert mpl_sparse.inspect(again)[0].nnz == np.count_nonzero(dense["f32"])
    with pytest.raises(SystemExit):
        cli.main(["convert", str(ours), str(plain), "--dense", "--unsigned-zeros"])


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_safetensors_has_not(tmp_path, name, capsys):
    """Ours have another name for the arrays; a plain file would be none."""
    ours = tmp_path / "ours.mpl"
    mpl_sparse.save({name: np.ones(3)}, ours)
    assert mpl_sparse.load(ours).keys() == {name}
    status, _, err = run("convert", ours, tmp_path / "plain", "--dense", capsys=capsys)
    assert status == 1 and "no such name" in err and os.listdir(tmp_path) == ["ours.mpl"]


def test_a_file_is_not_overwritten_without_force(tmp_path, weights, capsys):
    ours, target = tmp_path / "ours.mpl", tmp_path / "target.mpl"
    mpl_sparse.save(weights, ours)
    target.write_bytes(b"mine")
    status, _, err = run("convert", ours, target, capsys=capsys)
    assert status == 1 and "--force" in err and target.read_bytes() == b"mine"
    assert run("convert", ours, target, "--force", capsys=capsys)[0] == 0
    assert_equal(mpl_sparse.load(target), weights)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\xff", lambda data: b"x" * 90])
def test_a_damaged_file_leaves_the_target_as_it_was(tmp_path, weights, damage, capsys):
    source, target = tmp_path / "source.mpl", tmp_path / "target.mpl"
    source.write_bytes(damage(mpl_sparse.dumps(weights)))
    target.write_bytes(b"mine")
    status, out, err = run("convert", source, target, "--force", capsys=capsys)
    assert status == 1 and not out and len(err.splitlines()) == 1 and "source.mpl" in err
    assert target.read_bytes() == b"mine" and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("arguments", [["inspect"], ["convert", "a"], ["convert", "a", "b", "--compress", "zip"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2 and "usage" in capsys.readouterr().err


def test_an_interrupt_leaves_the_target_as_it_was(tmp_path):
    """Ctrl-C in the middle of a conversion, of a hundred tensors that take their time."""
    source, target = tmp_path / "source.mpl", tmp_path / "target.mpl"
    mpl_sparse.save({str(k): np.arange(50_000) for k in range(100)}, source)
    target.write_bytes(b"mine")
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from mpl_sparse import cli
from mpl_sparse.serializer import conversion
count, pack = 0, conversion.pack
def slow(*arguments):
    global count
    count += 1
    if count == 50:
        os.kill(os.getpid(), signal.SIGINT)
    return pack(*arguments)
conversion.pack = slow
sys.exit(cli.main(["convert", {str(source)!r}, {str(target)!r}, "--force"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "mpl-sparse convert: interrupted\n")
    assert target.read_bytes() == b"mine" and len(os.listdir(tmp_path)) == 2
