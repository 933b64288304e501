"""Opens each wheel of a folder and checks what it holds; prints its size. Ends with 1 if anything is wrong.

python ci/check_wheels.py FOLDER      # needs pyelftools (of auditwheel) and abi3audit
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import List

from elftools.elf.elffile import ELFFile

MOST_BYTES = 1_500_000
# The C library; its loader, ld-linux, is where thread-local variables are found on x86-64 and 32-bit ARM.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-armhf.so.3"}
EXPECTED = ("mpl_sparse/__init__.py", "mpl_sparse/py.typed", "mpl_sparse/_core.pyi", "mpl_sparse/demo/digits.npz")
# the machine in the file name: what the ELF header calls it, and the backends that the extension must hold
MACHINES = {
    "x86_64": ("EM_X86_64", {"avx512", "avx2", "scalar"}),
    "aarch64": ("EM_AARCH64", {"neon", "scalar"}),
    "armv7l": ("EM_ARM", {"neon", "scalar"}),
    "armv6l": ("EM_ARM", {"scalar"}),
}
ARM_PAGE_BYTES = 1 << 16  # of some kernels; the Raspberry Pi 5 has pages of 16 KiB
ALL_BACKENDS = set().union(*(backends for _, backends in MACHINES.values()))


def faults(wheel: Path) -> List[str]:
    """What is wrong with that wheel, a sentence each."""
    found = []
    _, _, python, abi, platform = wheel.stem.split("-")
    machine = next((name for name in MACHINES if platform.endswith(name)), None)
    if machine is None:
        return [f"no known machine in {platform}"]
    if machine != "armv6l" and "manylinux_2_17" not in platform:
        found.append(f"{platform} is not manylinux_2_17")
    if (python, abi) not in {("cp39", "abi3"), ("cp314", "cp314t")}:
        found.append(f"unexpected tags {python}-{abi}")
    if wheel.stat().st_size > MOST_BYTES:
        found.append(f"larger than {MOST_BYTES} bytes")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        extensions = [name for name in names if name.endswith(".so")]
        ending = ".abi3.so" if abi == "abi3" else ".so"
        if [name.partition(".")[0] for name in extensions] != ["mpl_sparse/_core"] or not extensions[0].endswith(
            ending
        ):
            found.append(f"expected one extension, mpl_sparse/_core, got {extensions}")
        else:
            found += extension_faults(archive.read(extensions[0]), *MACHINES[machine])
        found += [
            f"{name} does not belong there"
            for name in names
            if name.endswith((".pyx", ".pxd", ".cpp", ".h", ".a")) or name.split("/")[0] in {"tests", "src", "ci"}
        ]
        found += [f"{name} is missing" for name in EXPECTED if name not in names]
    if abi == "abi3":
        audit = subprocess.run(["abi3audit", "--strict", "--verbose", str(wheel)], capture_output=True, text=True)
        if audit.returncode:
            found.append(f"abi3audit: {audit.stdout}{audit.stderr}")
    return found


def extension_faults(data: bytes, machine: str, backends: set) -> List[str]:
    found = []
    elf = ELFFile(io.BytesIO(data))
    if elf["e_machine"] != machine:
        found.append(f"the extension is for {elf['e_machine']}, not {machine}")
    dynamic = list(elf.get_section_by_name(".dynamic").iter_tags())
    needed = {tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"}
    if needed - LIBRARIES:
        found.append(f"links {sorted(needed - LIBRARIES)}")
    aligned = {segment["p_align"] for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"}
    if machine != "EM_X86_64" and min(aligned) < ARM_PAGE_BYTES:
        found.append(f"is aligned to pages of {min(aligned)} bytes only")
    if any(tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for tag in dynamic):
        found.append("has a run path")
    if elf.get_section_by_name(".debug_info") or elf.get_section_by_name(".symtab"):
        found.append("is not stripped")
    exported = {
        symbol.name
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
    }
    if exported != {"PyInit__core"}:
        found.append(f"exports {sorted(exported)[:9]}, not PyInit__core alone")
    # The names in the list of backends stand in the file only if the backend was compiled.
    held = {name for name in ALL_BACKENDS if b"\0" + name.encode() + b"\0" in data}
    if held != backends:
        found.append(f"holds the backends {sorted(held)}, not {sorted(backends)}")
    return found


def main(folder: Path) -> int:
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        print(f"no wheel in {folder}")
        return 1
    failed = False
    for wheel in wheels:
        wrong = faults(wheel)
        failed |= bool(wrong)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes" + "".join(f"\n  {fault}" for fault in wrong))
    for sdist in sorted(folder.glob("*.tar.gz")):
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
