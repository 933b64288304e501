"""Files: written whole or not at all, read without reading what is not needed."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
from pathlib import Path
from typing import Any, Iterator, List

__all__ = ["opened", "write_atomically"]


def write_atomically(path: Any, buffers: List[Any]) -> None:
    """Put the buffers into a file of that path. Killed at any moment, it leaves the old file or the new one.

    The bytes go to a temporary file beside it, `.<name>.<random>.tmp`, and to the disk; then it takes the path, and the
    folder goes to the disk. A link is followed; an existing file's permissions are kept.

    Raises:
        ValueError: there is something other than a file.
        OSError: what the operating system refuses.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(f"path must be that of a file, got {os.fspath(path)!r}, which is something else")
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def opened(path: Any) -> Iterator[Any]:
    """The bytes of a file: mapped, so that only what is used is read; all that is left of a file object, read."""
    if hasattr(path, "read"):
        yield path.read()
        return
    with open(os.fspath(path), "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # cannot be mapped
            yield b""
            return
        # closed when its last view goes: an exception that holds one must not turn into another here
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
