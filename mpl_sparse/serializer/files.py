"""Files: written whole or not at all, read without reading what is not needed."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import mmap
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any, Iterator, List, Optional, Set, Tuple

__all__ = ["opened", "write_all", "write_atomically"]

MAX_NAME = 200  # bytes of the file's name in that of its temporary file: 255 in all is what file systems take
_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
_live: Set[Path] = set()  # temporary files that this process is writing: a lock on NFS belongs to a whole process


def write_atomically(path: Any, buffers: List[Any]) -> None:
    """Put the buffers into a file of that path. Killed at any moment, it leaves the old file or the new one.

    The bytes go to a temporary file beside it, `.<name>.<random>.tmp`, and to the disk; then it takes the path, and the
    folder goes to the disk. Who has the old file open or mapped keeps seeing the old one. What a killed writer left
    behind, the next one to the same path removes: the lock of a writer that lives tells them apart.

    As `open(path, "wb")` does, it follows a symbolic link, gives a new file the permissions of the umask, keeps those
    of an old one, and its owner and group where this process may give files away, and refuses one that may not be
    written. Of several hard links only this one gets the new content.

    Raises:
        TypeError: `path` is not a path.
        ValueError: there is something other than a file.
        OSError: what the operating system refuses.
    """
    try:
        target = Path(os.path.realpath(os.fsdecode(path)))
    except TypeError:
        raise TypeError(f"path must be a path or a file opened for writing, got {type(path).__name__}") from None
    old = _status(path, target)
    _remove_left_behind(target)
    descriptor, temporary = _temporary(target, 0o666 if old is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            if old is not None:
                _take_after(temporary, old)
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(descriptor)
            if _fcntl is None:
                file.close()  # Windows moves no open files
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        _live.discard(temporary)
    if os.name == "posix":
        _sync_folder(target.parent)


def write_all(file: Any, buffer: Any) -> None:
    """Write the buffer, bytes, to a file object that may take a part at a time, as unbuffered files do.

    Raises:
        BlockingIOError: it takes nothing now.
    """
    view = memoryview(buffer)
    while view.nbytes:
        written = file.write(view)
        if written is None and not isinstance(file, io.RawIOBase):  # other files than Python's own say nothing
            return
        if not written:
            raise BlockingIOError(errno.EAGAIN, "the file takes no more bytes now: it has a part of what was saved")
        view = view[written:]


@contextlib.contextmanager
def opened(path: Any) -> Iterator[Any]:
    """The bytes of a file: mapped, so that only what is used is read; all that is left of a file object, read."""
    if hasattr(path, "read"):
        yield path.read()
        return
    with open(_named(path), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe, a file of /proc: cannot be mapped
            yield file.read()
            return
        # closed when its last view goes: an exception that holds one must not turn into another here
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _named(path: Any) -> Any:
    try:
        return os.fspath(path)
    except TypeError:
        raise TypeError(f"path must be a path or a file opened for reading, got {type(path).__name__}") from None


def _status(path: Any, target: Path) -> Optional[os.stat_result]:
    """Whose the file is that is there, and its permissions; None if there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"path must be that of a file, got {os.fspath(path)!r}, which is something else")
    if not os.access(target, os.W_OK):  # its folder would let it be replaced
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return status


def _take_after(temporary: Path, old: os.stat_result) -> None:
    """Give a new file the permissions of the old one, and its owner and group where the system allows it."""
    new = temporary.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        for owner in (old.st_uid, -1):
            with contextlib.suppress(OSError):
                os.chown(temporary, owner, old.st_gid)
                break
    os.chmod(temporary, stat.S_IMODE(old.st_mode))  # after the owner, whose change takes bits away


def _prefix(target: Path) -> str:
    """What the names of a file's temporary files begin with."""
    name = target.name
    while len(os.fsencode(name)) > MAX_NAME:
        name = name[:-1]
    return f".{name}."


def _temporary(target: Path, mode: int) -> Tuple[int, Path]:
    """A new file beside the target, opened for writing and locked, and its path."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.tmp")
        _live.add(temporary)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        except BaseException:
            _live.discard(temporary)
            raise
        if _fcntl is None:
            return descriptor, temporary
        with contextlib.suppress(OSError):  # a file system without locks: then nobody takes it for left behind
            _fcntl.flock(descriptor, _fcntl.LOCK_EX)
        if temporary.exists():
            return descriptor, temporary
        os.close(descriptor)  # another writer was there before the lock
        _live.discard(temporary)


def _remove_left_behind(target: Path) -> None:
    """Remove the temporary files of writers to `target` that were killed. Where there are no locks, none."""
    if _fcntl is None:
        return
    name = re.escape(_prefix(target)) + "[0-9a-f]{16}[.]tmp"
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:  # a folder may be written but not listed
        found = [target.with_name(entry.name) for entry in entries if re.fullmatch(name, entry.name)]
        for temporary in found:
            if temporary in _live:
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
                    os.unlink(temporary)
                finally:
                    os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Bring the folder's names to the disk, where it can be opened and its file system has that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
