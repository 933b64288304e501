"""Copies this Python's headers for a cross-compiler.

    python ci/zig/headers.py FOLDER 4|8        # the bytes of a pointer on the target

Debian's pyconfig.h chooses by architecture among files that are not there for foreign ones; the copy holds the
host's own. For a 32-bit target its sizes are set right at the end; nothing else in it differs that the headers use.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

ILP32 = {
    **dict.fromkeys(["SIZEOF_LONG", "SIZEOF_VOID_P", "SIZEOF_SIZE_T", "SIZEOF_UINTPTR_T", "SIZEOF_PTHREAD_T"], 4),
    **dict.fromkeys(["SIZEOF_TIME_T", "ALIGNOF_LONG", "ALIGNOF_SIZE_T"], 4),
    "SIZEOF_LONG_DOUBLE": 8,
}


def main(folder: Path, pointer_bytes: int) -> None:
    """Write the headers to `folder`, which must not exist."""
    shutil.copytree(sysconfig.get_path("include"), folder)
    text = Path(sysconfig.get_config_h_filename()).read_text(encoding="utf-8")
    if pointer_bytes == 4:
        text += "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in ILP32.items())
    (folder / "pyconfig.h").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
