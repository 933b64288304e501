"""The circumstances of a measurement, and how a process is kept to an instruction set and to some CPUs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Dict

# What keeps torch (its own kernels, oneDNN, MKL) to the instructions of one of our backends. Read when torch loads.
CAPS: Dict[str, Dict[str, str]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "scalar": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}

REPOSITORY = Path(__file__).resolve().parents[2]


def variables(backend: str, threads: int) -> Dict[str, str]:
    """Of the environment, for a process that measures."""
    # Threads that spin after their work would take the others' turns.
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", **CAPS.get(backend, {})}


def cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Keep this process, and those it starts, to as many CPUs as threads: the first ones it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def circumstances() -> Dict[str, str]:
    """Machine, versions, commit and date."""
    return {
        "machine": f"{_cpu()}, {platform.system()} {platform.machine()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *map(_version, ("torch", "numpy"))]),
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def commit() -> str:
    """The repository's, with a plus sign if the code that is measured has changes; "unknown" outside git."""
    head = _git("rev-parse", "--short", "HEAD")
    return (head + ("+" if _git("status", "--porcelain", "--", "include", "src", "mpl_sparse") else "")) or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    name = re.search(r"(?:model name|Model)\s*:\s*(.+)", text)
    found = name.group(1) if name else platform.processor() or "unknown CPU"
    family = re.search(r"cpu family\s*:\s*(\d+)\s*\nmodel\s*:\s*(\d+)", text)
    return f"{found} (family {family.group(1)}, model {family.group(2)})" if family else found
