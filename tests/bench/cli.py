"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Sequence

import mpl_sparse

from . import layers, machine, measure, models, plot, records, report
from .peers import PEERS
from .task import FORWARD, WHATS

RECORDS = "results.jsonl"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Measure, then write the report.

    Each backend and number of threads has a process of its own: what keeps torch to an instruction set is read when it
    loads.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(words)
    if options.here:
        machine.pin(options.threads[0])
        measure.run(make_plan(options, options.here), say=lambda line: print(line, flush=True))
        return
    if not options.report_only:
        for backend in options.backend:
            for threads in options.threads:
                measure_in_process(words, backend, threads)
    write(options.write)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    backends, peers = mpl_sparse.backends(), [peer.name for peer in PEERS]
    vector_backends = [name for name in backends if name != "scalar"] or backends
    parser = argparse.ArgumentParser(
        prog="python tests/bench",
        description="Measures sparse layers and models against dense PyTorch and other libraries, taking turns in one "
        "run, and writes a table and plots. What the folder of results already holds for this commit is not measured "
        "again, so a long run can be stopped, and made in pieces.",
    )
    parser.add_argument("--quick", action="store_true", help="few layers, sparsities and rounds: some minutes")
    parser.add_argument("--what", nargs="+", choices=WHATS, help="default: all; with --quick: forward")
    parser.add_argument("--layers", metavar="PATTERN", help="only layers and models whose name this expression finds")
    parser.add_argument("--sparsity", nargs="+", type=_share, help="shares of pruned weights, such as 0.9")
    parser.add_argument("--batch", nargs="+", type=_positive, help="default: 1 and 16, for linear layers also 128")
    parser.add_argument("--threads", nargs="+", type=_positive, help="default: 1 2; with --quick: 1")
    parser.add_argument("--backend", nargs="+", choices=backends, help="default: all with vectors; --quick: the best")
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers, help="default: all that can be installed")
    parser.add_argument("--rounds", type=_positive, help="turns of each candidate; default 11, with --quick 7")
    parser.add_argument("--turn", type=float, default=0.01, metavar="SECONDS", help="length of a turn")
    parser.add_argument("--write", type=Path, default=Path("build/bench"), metavar="DIR", help="where the results go")
    parser.add_argument("--environments", type=Path, default=default_environments(), metavar="DIR")
    parser.add_argument("--report-only", action="store_true", help="measure nothing, write the report again")
    # In this process, for one backend and number of threads; the value is what the user typed.
    parser.add_argument("--here", metavar="COMMAND", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    quick = options.quick
    options.what = options.what or ([FORWARD] if quick else list(WHATS))
    options.sparsity = sorted(options.sparsity or (layers.QUICK_SPARSITIES if quick else layers.SPARSITIES))
    options.batch = options.batch or ([1] if quick else None)
    options.threads = options.threads or ([1] if quick else [1, 2])
    options.backend = options.backend or vector_backends[: 1 if quick else None]
    options.rounds = options.rounds or (7 if quick else 11)
    if options.turn <= 0:
        parser.error(f"argument --turn: must be positive, got {options.turn}")
    try:
        re.compile(options.layers or "")
    except re.error as error:
        parser.error(f"argument --layers: {options.layers!r} is no regular expression: {error}")
    return options


def make_plan(options: argparse.Namespace, command: str) -> measure.Plan:
    """What the options ask of this process, for their first backend and number of threads."""
    wanted = re.compile(options.layers or "")
    listed = layers.QUICK_LAYERS if options.quick else layers.LAYERS
    return measure.Plan(
        whats=options.what,
        layers=[layer for layer in listed if wanted.search(layer.name)],
        networks=[network for network in models.NETWORKS if wanted.search(network.name)],
        sparsities=options.sparsity,
        batches=options.batch,
        threads=options.threads[0],
        backend=options.backend[0],
        peers=options.peers,
        rounds=options.rounds,
        turn_seconds=options.turn,
        file=options.write / RECORDS,
        environments=options.environments.resolve(),
        command=command,
    )


def measure_in_process(words: List[str], backend: str, threads: int) -> None:
    """The same command for one backend and one number of threads, in a process made for it."""
    if machine.cpus() < threads:
        print(f"without {threads} threads: this process may use {machine.cpus()} CPU(s) only", flush=True)
        return
    print(f"backend {backend}, {threads} thread(s)", flush=True)
    folder = str(Path(__file__).parent)
    command = [sys.executable, folder, *words, "--backend", backend, "--threads", str(threads)]
    command += ["--here", shlex.join(["python", "tests/bench", *words])]
    subprocess.run(command, env={**os.environ, **machine.variables(backend, threads)}, check=True)


def write(folder: Path) -> None:
    """RESULTS.md and the plots, of all records in the folder."""
    found = records.read(folder / RECORDS)
    if not found:
        print(f"nothing measured in {folder}")
        return
    pictures = plot.draw_all(found, folder)
    text = report.markdown(found, [picture.name for picture in pictures])
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")
    for file in (folder / "RESULTS.md", *pictures):
        print(f"wrote {file}")


def default_environments() -> Path:
    """Below the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mpl-sparse" / "bench"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
