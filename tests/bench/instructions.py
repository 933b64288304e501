"""Counts the instructions of one call of each fixed case of driver.cpp, and compares them with what is recorded.

    python tests/bench/instructions.py            # says what changed; ends with 1 if something takes more instructions
    python tests/bench/instructions.py --record   # and writes instructions.json anew

Counts need no quiet machine and repeat exactly with one compiler. They are no times: cache misses are not in them. One
call is what three calls take more than two, so plans are not in them either. Valgrind has no AVX-512.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

FOLDER = Path(__file__).resolve().parent
RECORD = FOLDER / "instructions.json"
BACKENDS = ("avx2", "scalar")
SPARSITY = 0.9
TOLERANCE = 0.02

# Instructions a call, by backend and case.
Counts = Dict[str, Dict[str, int]]


def build(folder: Path) -> Path:
    """The driver, built in `folder`."""
    run(["cmake", "-S", str(FOLDER), "-B", str(folder)])
    run(["cmake", "--build", str(folder)])
    return folder / "driver"


def compiler(folder: Path) -> str:
    """What the driver in `folder` was built with: counts of another compiler differ."""
    (description,) = (folder / "CMakeFiles").glob("*/CMakeCXXCompiler.cmake")
    text = description.read_text(encoding="utf-8")
    words = [re.search(rf'set\(CMAKE_CXX_COMPILER_{key} "(.*?)"\)', text) for key in ("ID", "VERSION")]
    return " ".join(word.group(1) for word in words if word)


def count(driver: Path, case: str, backend: str) -> int:
    """Instructions of one call."""
    two, three = (_count(driver, case, backend, calls) for calls in (2, 3))
    return three - two


def _count(driver: Path, case: str, backend: str, calls: int) -> int:
    """Instructions of a whole run of the driver."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = run([*valgrind, str(driver), case, backend, str(SPARSITY), str(calls)])
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected is not None, done.stderr
    return int(collected.group(1))


def changes(recorded: Counts, counted: Counts) -> List[str]:
    """A line for each case that is new, missing, or changed by more than the tolerance; "+" is more instructions."""
    lines = []
    for backend, cases in counted.items():
        before = recorded.get(backend, {})
        for case, now in cases.items():
            if case not in before:
                lines.append(f"{backend} {case}: {now:,}, not recorded")
            elif abs(now - before[case]) > TOLERANCE * before[case]:
                lines.append(f"{backend} {case}: {before[case]:,} -> {now:,} ({now / before[case] - 1:+.1%})")
        lines += [f"{backend} {case}: recorded, but no longer there" for case in before if case not in cases]
    return lines


def more(recorded: Counts, counted: Counts) -> bool:
    """Whether a case takes more instructions than recorded, beyond the tolerance."""
    return any(
        now > recorded.get(backend, {}).get(case, now) * (1 + TOLERANCE)
        for backend, cases in counted.items()
        for case, now in cases.items()
    )


def run(command: List[str]) -> subprocess.CompletedProcess[str]:
    """Run a program that must not fail; if it does, end with what it said."""
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--build", type=Path, default=Path("build/driver"), metavar="DIR", help="where the driver goes")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    options = parser.parse_args()
    driver = build(options.build)
    counted: Counts = {backend: {} for backend in BACKENDS}
    for case in run([str(driver), "--list"]).stdout.split():
        for backend in BACKENDS:
            counted[backend][case] = count(driver, case, backend)
            print(f"{backend} {case}: {counted[backend][case]:,}", flush=True)
    made_by = compiler(options.build)
    recorded = (
        json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"compiler": made_by, "counts": {}}
    )
    if recorded["compiler"] != made_by:
        print(f"recorded with {recorded['compiler']}, counted with {made_by}: compare with care")
    found = changes(recorded["counts"], counted)
    print("\n".join([f"{'changed' if found else 'nothing changed'} by more than {TOLERANCE:.0%}", *found]))
    if options.record:
        text = json.dumps({"compiler": made_by, "sparsity": SPARSITY, "counts": counted}, indent=2)
        RECORD.write_text(text + "\n", encoding="utf-8")
    elif more(recorded["counts"], counted):
        sys.exit(1)


if __name__ == "__main__":
    main()
