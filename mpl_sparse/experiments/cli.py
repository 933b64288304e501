"""The program: which trainings are missing, all of them with their progress, then table and picture."""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import shlex
import sys
from datetime import date
from importlib import metadata, util
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import torch

from ..nn import prunable_layers
from .methods import METHODS
from .records import Record, append, read
from .report import orderings, table
from .training import Training

__all__ = ["main"]

DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01)
Key = Tuple[str, float, int, int]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run it, and return the exit status. `arguments` default to those of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m mpl_sparse.experiments",
        description="Accuracy against density of the ways to prune, on digits. Goes on where it was stopped.",
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES), metavar="DENSITY")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("experiments"), help="folder of the results (default: experiments)"
    )
    options = parser.parse_args(words)
    if not all(0 < density < 1 for density in options.densities):
        parser.error(f"--densities must lie between 0 and 1, got {options.densities}")
    for name in ("seeds", "epochs", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    for needed in ("tqdm", "matplotlib"):
        if util.find_spec(needed) is None:
            parser.exit(1, f"{parser.prog} needs {needed}, which is not installed: pip install {needed}\n")

    keys = wanted(options.methods, options.densities, options.seeds, options.epochs)
    file = options.out / "records.jsonl"
    have = {record.key for record in read(file)}
    run_all([key for key in keys if key not in have], options.jobs, file)
    records = [record for record in read(file) if record.key in set(keys)]
    write(records, options.out, shlex.join(["python", "-m", "mpl_sparse.experiments", *words]))
    return 0


def wanted(methods: Sequence[str], densities: Sequence[float], seeds: int, epochs: int) -> List[Key]:
    """All trainings: the dense one once a seed."""
    return [
        (method, density, seed, epochs)
        for seed in range(seeds)
        for method in methods
        for density in ([1.0] if method == "dense" else densities)
    ]


def run(key: Key) -> Record:
    """One training, on one thread: the same numbers every time on one machine."""
    method, density, seed, epochs = key
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    training = Training(epochs)
    model = METHODS[method].train(training, density)
    weights = sum(layer.num_weight for _, layer in prunable_layers(model))
    if method == "dense":
        weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    return Record(method, density, seed, epochs, training.accuracy(model), weights)


def run_all(keys: Sequence[Key], jobs: int, file: Path) -> None:
    """Those trainings; each is in the file as soon as it is done."""
    from tqdm import tqdm

    with tqdm(total=len(keys), unit="training", disable=None) as bar:

        def done(record: Record) -> None:
            append(file, record)
            bar.set_description(f"{record.method} at {record.density:g}: {record.accuracy:.3f}")
            bar.update()

        if jobs == 1:
            for key in keys:
                done(run(key))
            return
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for record in pool.imap_unordered(run, keys):
                done(record)


def write(records: Sequence[Record], folder: Path, command: str) -> None:
    """RESULTS.md and accuracy.png."""
    from .picture import draw

    draw(records, folder / "accuracy.png")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mpl-sparse", "torch", "numpy"))
    seeds, epochs = len({record.seed for record in records}), {record.epochs for record in records}
    methods = "\n".join(
        f"- *{name}*: {method.about}." for name, method in METHODS.items() if name in {each.method for each in records}
    )
    parts = [
        "# Ways to prune, on the digits",
        f"Made by `{command}` ({versions}, Python {platform.python_version()}, {date.today().isoformat()}).",
        "A network of two convolutions and two linear layers, 71,568 weights, trained on 1,437 digits of 8x8 and "
        f"judged by the last 360; {', '.join(map(str, sorted(epochs)))} epochs of SGD, {seeds} seeds. Per cent of the "
        "held-out digits, mean ± standard deviation over the seeds. Networks that start from a random pattern have "
        "their initial weights scaled by 1 / sqrt(density) of each layer (Evci et al., arXiv:2010.03533).",
        "![accuracy against density](accuracy.png)",
        table(records),
        "How each spends its steps:",
        methods,
        "## What the papers lead one to expect",
        "Differences are paired by seed and density, at the lower half of the densities, with their standard error. "
        "*Shows* is more than twice that.",
        "\n".join(orderings(records)),
    ]
    (folder / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'RESULTS.md'}")
