"""Counts the instructions of the NEON kernels under an emulator and models the cycles of their inner loops.

    python tests/bench/neon.py                             # the table of counts and cycles, for each compiler found
    python tests/bench/neon.py --write tests/bench/NEON.md
    python tests/bench/neon.py --arch armv7 --compiler zig --zig "python -m ziglang" --cases conv3x3_256_14

No ARM machine is needed. Builds the core and tests/bench/driver.cpp for ARM, runs a case once and twice under QEMU
with the plugin blocks.c: the difference is one call, exact to the instruction. The loop that holds the most
multiply-adds of that call is then taken from the program and given to llvm-mca, which knows no caches: its cycles are
those of data in the first level. An emulator's own time says nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

HERE = Path(__file__).parent
# FMLA a cycle that llvm-mca's model of each core can reach. The N1's stands for the A76.
PEAK = {"cortex-a53": 1.0, "cortex-a72": 1.0, "neoverse-n1": 2.0}
CASES = (
    "conv3x3_256_14",
    "conv3x3_64_56",
    "conv1x1_1024_256_14",
    "linear_3136_2048",
    "linear_3136_2048_batch32",
    "conv3x3_256_14.grad_input",
    "conv3x3_256_14.grad_weight",
)
MULTIPLY_ADD = re.compile(r"(fmla|fmls|fmul)_v\.[24][sd]$|v(fma|mla|mul)\.f32_q$")
VECTOR_LOAD = re.compile(r"(ldr|ldp|ldur)_q$|ld[1-4]r?_v|vld[m1-4]|vldr")


class Architecture(NamedTuple):
    """What it takes to build and run for one kind of ARM."""

    processor: str
    gcc: str
    zig_target: str
    zig_cpu: str
    qemu: str
    cpu: str
    lanes: int = 4


ARCHITECTURES = {
    "aarch64": Architecture(
        "aarch64", "aarch64-linux-gnu-g++", "aarch64-linux-musl", "generic", "qemu-aarch64", "cortex-a72"
    ),
    "armv7": Architecture(
        "armv7l", "arm-linux-gnueabihf-g++", "arm-linux-musleabihf", "generic+v7a+vfp4+neon", "qemu-arm", "cortex-a7"
    ),
}


class Missing(Exception):
    """A program that this command needs is not installed."""


class Block(NamedTuple):
    """A basic block: how often it ran, in which function, and how many instructions of each kind it has."""

    count: int
    symbol: str
    kinds: Dict[str, int]

    @property
    def instructions(self) -> int:
        return self.count * sum(self.kinds.values())

    def of_kind(self, kind: re.Pattern[str]) -> int:
        """Instructions of that kind that the block's runs executed."""
        return self.count * sum(times for name, times in self.kinds.items() if kind.match(name))


Blocks = Dict[Tuple[int, str], Block]


class Loop(NamedTuple):
    """The instructions of a loop, as an assembler takes them, and the first one's address."""

    address: int
    body: List[str]


class Row(NamedTuple):
    """One line of the table."""

    case: str
    function: str
    instructions: int
    multiply_adds: int
    loads: int
    lanes_used: float
    in_function: float
    in_loop: Optional[float]
    per_cycle: Dict[str, float]


def parse_blocks(text: str) -> Blocks:
    """The plugin's report, by address and kinds: a block that was translated twice is counted as one."""
    blocks: Blocks = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or words[0] != "block":
            continue
        kinds = {name: int(times) for name, _, times in (kind.rpartition("*") for kind in words[4].split(";"))}
        key = (int(words[1], 16), words[4])
        before = blocks[key].count if key in blocks else 0
        blocks[key] = Block(before + int(words[2]), words[3], kinds)
    return blocks


def difference(twice: Blocks, once: Blocks) -> Blocks:
    """What ran in `twice` beyond `once`."""
    extra = {}
    for key, block in twice.items():
        count = block.count - (once[key].count if key in once else 0)
        if count > 0:
            extra[key] = block._replace(count=count)
    return extra


def find_loop(disassembly: str, address: int) -> Optional[Loop]:
    """The smallest loop of an objdump listing that holds that address, None where there is none."""
    listing = []
    for line in disassembly.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)
        if match:
            listing.append((int(match[1], 16), re.sub(r"\s*(<.*>|//.*|;.*)$", "", match[2]).replace("\t", " ").strip()))
    found = None
    for end, (at, text) in enumerate(listing):
        match = re.match(r"(?:b|b\.\w+|cbn?z \w+,|tbn?z \w+, #\w+,) (?:#)?0x([0-9a-f]+)$", text)
        target = int(match[1], 16) if match else at + 1
        if target <= address <= at and (found is None or at - target < found[1] - found[0]):
            found = (target, at, end)
    if found is None:
        return None
    body = [text for at, text in listing if found[0] <= at <= found[1]]
    # The address a branch goes to means nothing to an assembler that sees the loop alone.
    return Loop(found[0], [re.sub(r"(#)?0x[0-9a-f]+$", ".Lloop", text) if is_branch(text) else text for text in body])


def is_branch(text: str) -> bool:
    """Whether the instruction is a branch to a fixed address."""
    return re.match(r"(b|b\.\w+|bl|cbn?z|tbn?z) ", text) is not None


def parse_cycles(report: str) -> float:
    """Cycles an iteration, from llvm-mca's summary. Raises ValueError for a report without one."""
    iterations = re.search(r"^Iterations:\s+(\d+)", report, re.MULTILINE)
    cycles = re.search(r"^Total Cycles:\s+(\d+)", report, re.MULTILINE)
    if not iterations or not cycles:
        raise ValueError(f"llvm-mca printed no summary: {report[:200]!r}")
    return int(cycles[1]) / int(iterations[1])


def multiply_adds_of(body: Sequence[str]) -> int:
    """Vector multiply-adds among those instructions."""
    return sum(bool(re.match(r"(fmla|fmls|fmul) v\d+\.[24][sd],", text)) for text in body)


def program(*names: str, needed_for: str) -> str:
    """The first of those programs that is installed; LLVM's may carry a version, the newest first."""
    for name in names:
        candidates = [name]
        if name.startswith("llvm-"):
            candidates += [f"{name}-{version}" for version in range(30, 10, -1)]
            candidates.sort(key=lambda candidate: candidate == name)  # a plain name may be an old version
        for candidate in candidates:
            if shutil.which(candidate):
                return candidate
    raise Missing(f"not installed: {' or '.join(names)} ({needed_for})")


def run(command: Sequence[str], text: str = "", environment: Optional[Dict[str, str]] = None) -> str:
    """What the command prints. Raises RuntimeError with its errors if it fails."""
    result = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def zig_command(given: str) -> List[str]:
    """How to call zig: as given, from the path, or from this Python's packages."""
    if given:
        return shlex.split(given)
    if shutil.which("zig"):
        return ["zig"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang"]
    raise Missing("not installed: zig, nor the package ziglang (the compiler of the wheels)")


def script(path: Path, command: Sequence[str]) -> str:
    """A program for CMake that runs the command."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def build_driver(arch: Architecture, compiler: str, zig: str, directory: Path) -> Tuple[Path, str]:
    """Cross-builds the core and the driver, statically. Returns the program and the compiler's version."""
    program("cmake", needed_for="builds the core")
    directory.mkdir(parents=True, exist_ok=True)
    options = ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={arch.processor}", "-DCMAKE_BUILD_TYPE=Release"]
    if shutil.which("ninja"):
        options.append("-GNinja")
    if compiler == "zig":
        command = zig_command(zig)
        cxx = [*command, "c++", "-target", arch.zig_target, f"-mcpu={arch.zig_cpu}", "-static"]
        options += [
            "-DCMAKE_CXX_COMPILER=" + script(directory / "zig-cxx", cxx),
            "-DCMAKE_AR=" + script(directory / "zig-ar", [*command, "ar"]),
            "-DCMAKE_RANLIB=" + script(directory / "zig-ranlib", [*command, "ranlib"]),
        ]
        version = "zig " + run([*command, "version"]).strip()
    else:
        gcc = program(arch.gcc, needed_for=f"compiles for {arch.processor}")
        options += [f"-DCMAKE_CXX_COMPILER={gcc}", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
        version = run([gcc, "--version"]).splitlines()[0]
    run(["cmake", "-S", str(HERE), "-B", str(directory), *options])
    run(["cmake", "--build", str(directory), "--target", "driver"])
    return directory / "driver", version


def build_plugin(qemu: str, directory: Path) -> Path:
    """Compiles blocks.c for that QEMU."""
    cc = program("cc", "gcc", "clang", needed_for="compiles QEMU's plugin")
    major = int(re.search(r"version (\d+)", run([qemu, "--version"]))[1])
    directory.mkdir(parents=True, exist_ok=True)
    plugin = directory / "blocks.so"
    api = 1 if major < 9 else 2
    run([cc, "-shared", "-fPIC", "-O2", f"-DQEMU_PLUGIN_API={api}", "-o", str(plugin), str(HERE / "blocks.c")])
    return plugin


def blocks_of(qemu: str, cpu: str, plugin: Path, command: Sequence[str]) -> Tuple[Blocks, str]:
    """Runs a program under QEMU. Returns its blocks and what it printed."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "blocks"
        wrapped = [qemu, "-d", "plugin", "-D", str(report), "-plugin", str(plugin), *command]
        printed = run(wrapped, environment={**os.environ, "QEMU_CPU": cpu})
        return parse_blocks(report.read_text()), printed


def short_name(symbol: str) -> str:
    """A C++ symbol without namespaces of the core, return type and arguments."""
    filters = [name for name in ("c++filt", "llvm-cxxfilt") if shutil.which(name)]
    name = run([filters[0]], text=symbol).strip() if filters else symbol
    name = re.sub(r"mpl_sparse::(neon|scalar)?(::)?|\(anonymous namespace\)::", "", name)
    return re.sub(r"^void |\(.*$", "", name)


def cycles(body: Sequence[str], cpu: str) -> float:
    """llvm-mca's cycles for one pass of the loop."""
    mca = program("llvm-mca", needed_for="models the cycles of inner loops")
    text = ".Lloop:\n" + "\n".join(body) + "\n"
    return parse_cycles(run([mca, "-mtriple=aarch64", f"-mcpu={cpu}", "-iterations=200"], text=text))


def measure(arch: Architecture, driver: Path, plugin: Path, case: str, sparsity: float) -> Row:
    """Counts one call of the case, and models its hottest loop."""

    def calls(count: int) -> Tuple[Blocks, str]:
        return blocks_of(arch.qemu, arch.cpu, plugin, [str(driver), case, "neon", str(sparsity), str(count)])

    twice, printed = calls(2)
    call = difference(twice, calls(1)[0])
    multiply_adds = sum(block.of_kind(MULTIPLY_ADD) for block in call.values())
    if not multiply_adds:
        raise RuntimeError(f"the case {case} executed no vector multiply-add: is its build a scalar one?")
    by_function: Dict[str, List[int]] = defaultdict(lambda: [0, 0])
    for block in call.values():
        by_function[block.symbol][0] += block.of_kind(MULTIPLY_ADD)
        by_function[block.symbol][1] += block.instructions
    function, (in_function, function_instructions) = max(by_function.items(), key=lambda item: item[1])
    (address, _), _ = max(call.items(), key=lambda item: (item[1].of_kind(MULTIPLY_ADD), -item[0][0]))
    in_loop, per_cycle = None, {}
    if arch.processor == "aarch64":
        objdump = program("llvm-objdump", needed_for="reads the loops of the program")
        loop = find_loop(run([objdump, "-d", "--no-show-raw-insn", str(driver)]), address)
        if loop and multiply_adds_of(loop.body):
            in_loop = len(loop.body) / multiply_adds_of(loop.body)
            per_cycle = {cpu: multiply_adds_of(loop.body) / cycles(loop.body, cpu) for cpu in PEAK}
    asked = int(re.search(r"multiply_adds (\d+)", printed)[1])
    return Row(
        case,
        short_name(function),
        sum(block.instructions for block in call.values()),
        multiply_adds,
        sum(block.of_kind(VECTOR_LOAD) for block in call.values()),
        asked / (arch.lanes * multiply_adds),
        function_instructions / in_function,
        in_loop,
        per_cycle,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    cores = [cpu for cpu in PEAK if any(row.per_cycle for row in rows)]
    head = [
        "case",
        "hottest function",
        "instructions",
        "FMLA",
        "lanes used",
        "a layer's",
        "its function's",
        "its loop's",
    ]
    head += ["vector loads", *(f"{cpu}: FMLA a cycle (of the peak)" for cpu in cores)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"`{row.case}`", f"`{row.function}`", f"{row.instructions:,}", f"{row.multiply_adds:,}"]
        cells += [f"{row.lanes_used:.0%}", f"{row.instructions / row.multiply_adds:.2f}", f"{row.in_function:.2f}"]
        cells += [f"{row.in_loop:.2f}" if row.in_loop else "-", f"{row.loads / row.multiply_adds:.2f}"]
        cells += [f"{row.per_cycle[c]:.2f} ({row.per_cycle[c] / PEAK[c]:.0%})" if row.per_cycle else "-" for c in cores]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_arguments(words: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--compiler", nargs="+", choices=["g++", "zig"], default=["g++", "zig"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="of the driver's list")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--zig", default="", help="how to call zig, if it is neither on the path nor a package")
    parser.add_argument("--build", type=Path, default=Path("build/neon"), help="where to build")
    parser.add_argument("--write", type=Path, help="a Markdown file for the tables")
    return parser.parse_args(words)


def main(words: Optional[Sequence[str]] = None) -> int:
    given = parse_arguments(words)
    sections = []
    failed = False
    for name in given.arch:
        arch = ARCHITECTURES[name]
        for compiler in given.compiler:
            try:
                qemu = program(arch.qemu, needed_for="runs and counts; the dynamic one: static builds take no plugin")
                plugin = build_plugin(qemu, given.build)
                directory = (given.build / f"{name}-{compiler.replace('+', 'x')}").resolve()
                driver, version = build_driver(arch, compiler, given.zig, directory)
                rows = [measure(arch, driver, plugin.resolve(), case, given.sparsity) for case in given.cases]
            except Missing as missing:
                print(f"{name}, {compiler}: {missing}", file=sys.stderr)
                failed = True
                continue
            sections.append(f"## {name}, {version}\n\n{table(rows)}\n")
            print(sections[-1], flush=True)
    if given.write and sections:
        given.write.write_text(report(given, sections))
    return int(failed)


def report(given: argparse.Namespace, sections: Sequence[str]) -> str:
    """The Markdown file: what was run with what, how to read it, the tables."""
    tools = [run([ARCHITECTURES[name].qemu, "--version"]).splitlines()[0] for name in given.arch]
    if "aarch64" in given.arch:
        mca = program("llvm-mca", needed_for="models cycles")
        tools.append("llvm-mca " + re.search(r"version (\S+)", run([mca, "--version"]))[1])
    peaks = ", ".join(f"{cpu} {peak:g}" for cpu, peak in PEAK.items())
    return f"""# The NEON kernels, counted and modelled

Written by `python tests/bench/neon.py`: float32, {given.sparsity:.0%} sparsity, one thread, with {"; ".join(tools)}.

Instructions are counted for one call of a whole layer, plans built. FMLA are vector multiply-adds; "lanes used" is
the share of their lanes that belong to an output. The next three columns are instructions per FMLA: of the whole
layer, of its hottest function, of the innermost loop where most FMLA are. "Vector loads" are load instructions per
FMLA, of the layer. Cycles are those of llvm-mca for that loop alone, with all data in the first-level cache; the
peaks of its models are, in FMLA a cycle: {peaks}. It has no model of the 32-bit cores.

{chr(10).join(sections)}"""


if __name__ == "__main__":
    sys.exit(main())
