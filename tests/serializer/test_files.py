"""Files: paths and file objects, written whole or not at all."""

import errno
import io
import mmap
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path):
    path = tmp_path / "file"
    save(OLD, path)
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    save(NEW, path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o640)
    assert_is(path, NEW)


def test_a_file_object_that_takes_no_more():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb"), open(writer, "wb", buffering=0) as pipe, pytest.raises(BlockingIOError):
        save(np.ones(10**6), pipe)


def test_a_real_disk_that_is_full(tmp_path):
    """A file size limit, in a process of its own: the kernel takes a part and refuses the rest."""
    pytest.importorskip("resource")
    path = tmp_path / "file"
    save(OLD, path)
    code = """
import errno, resource, sys, numpy as np, mpl_sparse
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    mpl_sparse.save({"a": np.arange(50_000)}, sys.argv[1])
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert os.listdir(tmp_path) == ["file"]
    assert_is(path, OLD)


def test_a_file_that_may_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save(OLD, path)
    path.chmod(0o400)
    if os.access(path, os.W_OK):  # root may all
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError) as caught:
        save(NEW, path)
    assert caught.value.filename == str(path)
    assert_is(path, OLD)
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_names(tmp_path):
    for name in ("a" * 255, "ä" * 127, "." * 255):
        for obj in (OLD, NEW):
            save(obj, tmp_path / name)
            assert_is(tmp_path / name, obj)
    assert len(os.listdir(tmp_path)) == 3


def test_what_killed_writers_left_behind_is_removed(tmp_path):
    path = tmp_path / "file"
    left = [tmp_path / f".file.{number:016x}.tmp" for number in range(3)]
    others = [tmp_path / name for name in (".file.tmp", ".file2.0000000000000000.tmp", ".file.0000000000000000.tmp2")]
    for each in left + others:
        each.write_bytes(b"cut short")
    with open(left[2], "rb") as lived_in:
        import fcntl

        fcntl.flock(lived_in, fcntl.LOCK_EX)  # as its writer would hold it
        save(OLD, path)
        assert not left[0].exists() and not left[1].exists() and left[2].exists()
    save(OLD, path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_writers_to_one_path_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, depth = tmp_path / "file", []

    def sync(descriptor, plain=os.fsync):
        """In the middle of a save, another one."""
        if len(depth) < 2:
            depth.append(descriptor)
            save(NEW, path)
            assert_is(path, NEW)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    save(OLD, path)
    assert_is(path, OLD)
    assert len(depth) == 2 and os.listdir(tmp_path) == ["file"]


def test_readers_and_writers_at_once(tmp_path):
    path, contents = tmp_path / "file", [{"a": np.full(30_000, number)} for number in range(4)]
    save(contents[0], path)
    writing = threading.Event()

    def write(content):
        for _ in range(20):
            save(content, path)

    def read():
        seen = 0
        while not writing.is_set():
            assert len(np.unique(load(path)["a"])) == 1
            seen += 1
        return seen

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        writers = [pool.submit(write, content) for content in contents[1:]]
        try:
            for writer in writers:
                writer.result()
        finally:
            writing.set()
        assert all(reader.result() for reader in readers)
    assert os.listdir(tmp_path) == ["file"]


def test_who_has_the_old_file_mapped_keeps_it(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    save(OLD, path)
    os.link(path, link)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        save(NEW, path)
        assert np.array_equal(loads(mapped)["a"], OLD["a"])
    assert_is(path, NEW)
    assert_is(link, OLD)  # the other hard link


class Dribble(io.RawIOBase):
    """Takes and gives little at a time, and cannot seek."""

    def __init__(self, data=b""):
        self.data = bytearray(data)

    def writable(self):
        return True

    def readable(self):
        return True

    def write(self, data):
        self.data += data[:1000]
        return min(len(data), 1000)

    def readinto(self, buffer):
        size = min(len(buffer), 1000, len(self.data))
        buffer[:size], self.data = self.data[:size], self.data[size:]
        return size


def test_file_objects_that_take_a_part_at_a_time():
    file = Dribble()
    save(NEW, file)
    assert file.data == dumps(NEW)
    assert np.array_equal(load(file)["a"], NEW["a"])


def test_a_file_object_is_read_and_written_where_it_stands(tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"before")
        save(NEW, file)
        file.seek(len(b"before"))
        assert np.array_equal(load(file)["a"], NEW["a"])
        assert file.read() == b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit((tmp_path / "pipe").write_bytes, dumps(NEW))
        assert_is(tmp_path / "pipe", NEW)
        writer.result()
    with pytest.raises(ValueError, match="path must be that of a file"):
        save(OLD, tmp_path / "pipe")


def test_what_is_no_path():
    for path in (5.0, None, ["x"]):
        with pytest.raises(TypeError, match="path must be a path or a file opened for writing"):
            save(OLD, path)
        for read in (load, inspect):
            with pytest.raises(TypeError, match="path must be a path or a file opened for reading"):
                read(path)


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
