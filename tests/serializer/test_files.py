"""Files: paths and file objects, written whole or not at all."""

import errno
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mpl_sparse
from mpl_sparse import dumps, inspect, load, loads, save
from mpl_sparse.serializer import NotOurs, Truncated

OLD, NEW = {"a": np.arange(5)}, {"a": np.arange(50_000)}


def assert_is(path, obj):
    assert np.array_equal(load(path)["a"], obj["a"])


def test_paths_and_file_objects(tmp_path):
    for path in (tmp_path / "one", str(tmp_path / "two"), os.fsencode(tmp_path / "three")):
        save(NEW, path)
        assert_is(path, NEW)
    file = io.BytesIO()
    save(NEW, file)
    assert file.getvalue() == dumps(NEW) == (tmp_path / "one").read_bytes()
    file.seek(0)
    assert_is(file, NEW)
    for data in (bytearray(file.getvalue()), memoryview(file.getvalue())):
        assert np.array_equal(loads(data)["a"], NEW["a"])
    assert sorted(os.listdir(tmp_path)) == ["one", "three", "two"]
    assert [info.shape for info in inspect(tmp_path / "one")] == [(50_000,)]


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
def test_what_is_not_bytes(data):
    with pytest.raises(TypeError, match="data must be bytes"):
        loads(data)
    with pytest.raises(TypeError, match="data must be bytes"):
        load(io.StringIO("text"))
    with pytest.raises(TypeError):
        save(OLD, 5)


def test_what_is_loaded_is_its_own(tmp_path):
    save(OLD, tmp_path / "file")
    made = load(tmp_path / "file")["a"]
    made += 1
    save(NEW, tmp_path / "file")
    assert np.array_equal(made, np.arange(1, 6))


def test_the_originals_import_path(tmp_path):
    from mpl_sparse.utils import save_load

    assert save_load.save is mpl_sparse.save and save_load.load is mpl_sparse.load


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    save(OLD, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    class Full(io.FileIO):
        write = full

    if call == "write":
        monkeypatch.setattr("builtins.open", lambda descriptor, mode: Full(descriptor, mode))
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="no space"):
        save(NEW, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert_is(path, OLD)


def test_nothing_is_written_of_what_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError):
        save({"a": OLD, "b": object()}, tmp_path / "file")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_links_and_other_files(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    umask = os.umask(0o027)
    try:
        save(OLD, path)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    link.symlink_to(path)
    save(NEW, link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert_is(path, NEW)
    with pytest.raises(ValueError, match="path must be that of a file"):
        save(OLD, tmp_path)
    with pytest.raises(FileNotFoundError):
        save(OLD, tmp_path / "no" / "folder")


SAVE_FOREVER = """
import sys, numpy as np, mpl_sparse
print("ready", flush=True)
number = 0
while True:
    number += 1
    mpl_sparse.save({"a": np.full(20_000, number)}, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_moment_one_file_stands(tmp_path):
    path = tmp_path / "file"
    save({"a": np.full(20_000, 0)}, path)
    for turn in range(12):
        with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            for _ in range(5):
                assert len(np.unique(load(path)["a"])) == 1  # a reader beside the writer
            time.sleep(0.0013 * turn)
            process.kill()
        made = load(path)["a"]
        assert made.size == 20_000 and len(np.unique(made)) == 1


def test_files_of_others(tmp_path):
    path = tmp_path / "file"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    for content, error in [
        (b"", Truncated),
        (b"1234567", Truncated),
        (b"\x80\x04K\x01." * 9, NotOurs),
        (len(header).to_bytes(8, "little") + header + b"1", NotOurs),
    ]:
        path.write_bytes(content)
        for read in (load, inspect):
            with pytest.raises(error):
                read(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")
