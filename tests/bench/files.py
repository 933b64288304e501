"""How long a 90%-sparse VGG-16 takes to save and to load, and how large its file is, beside torch and safetensors.

    python tests/bench/files.py                # writes tests/bench/results/files/RESULTS.md; 5 GB of memory, minutes
    python tests/bench/files.py --rounds 3 --folder /dev/shm --write build/files

Needs torch, safetensors, zstandard, tqdm. The candidates take turns within a round. Every save ends with the file and
its folder on the disk (fsync), ours by itself and the others by this program; files that are loaded are in the page
cache. What is loaded is touched, all of it: a mapped file would else be read later, by whoever uses it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import safetensors.torch
import torch
from tqdm import tqdm

import mpl_sparse

# As a script this is in no package: make one of the folder, and keep its files from hiding modules of the same names.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import models
from bench.machine import circumstances
from bench.timing import Timer, ratio, take_turns, timer

RESULTS = Path(__file__).resolve().parent / "results" / "files"
SPARSITY = 0.9
DENSE = "torch, dense"


class Candidate(NamedTuple):
    """A way to keep the model in a file: what is saved, how, and how it is loaded."""

    name: str
    obj: Any
    save: Callable[[Any, Path], object]
    load: Callable[[Path], Any]


class Row(NamedTuple):
    """What was measured of a candidate: bytes, and seconds of each round."""

    name: str
    nbytes: int
    saving: List[float]
    loading: List[float]


def candidates(model: torch.nn.Module) -> List[Candidate]:
    """All of them, from a dense model of which the smallest weights of each layer are pruned here."""
    masked = mpl_sparse.prunable(model)
    mpl_sparse.prune_by_pct(masked, SPARSITY)
    sparse = mpl_sparse.to_sparse(masked).state_dict()
    dense = {name: tensor for name, tensor in masked.state_dict().items() if not name.endswith("mask")}
    with torch.no_grad():
        for name, layer in mpl_sparse.nn.prunable_layers(masked):
            dense[f"{name}.weight"] = torch.where(layer.mask, layer.weight, 0)  # a product has zeros of both signs
    flat = {name: tensor.reshape(len(tensor), -1) if tensor.dim() > 1 else tensor for name, tensor in dense.items()}
    coo = {name: tensor.to_sparse() if tensor.dim() > 1 else tensor for name, tensor in flat.items()}
    csr = {name: tensor.to_sparse_csr() if tensor.dim() > 1 else tensor for name, tensor in flat.items()}

    def zstd(obj: Any, path: Path) -> None:
        mpl_sparse.save(obj, path, compress="zstd")

    return [
        Candidate("mpl-sparse, sparse layers", sparse, mpl_sparse.save, mpl_sparse.load),
        Candidate("mpl-sparse, sparse layers, zstd", sparse, zstd, mpl_sparse.load),
        Candidate("mpl-sparse, dense tensors with zeros", dense, mpl_sparse.save, mpl_sparse.load),
        Candidate("mpl-sparse, torch COO", coo, mpl_sparse.save, mpl_sparse.load),
        Candidate("mpl-sparse, torch CSR", csr, mpl_sparse.save, mpl_sparse.load),
        Candidate("torch, COO", coo, synced(torch.save), torch_load),
        Candidate("torch, CSR", csr, synced(torch.save), torch_load),
        Candidate(DENSE, dense, synced(torch.save), torch_load),
        Candidate("torch, dense, mmap=True", dense, synced(torch.save), lambda path: torch_load(path, mmap=True)),
        Candidate("safetensors, dense", dense, synced(safetensors.torch.save_file), safetensors.torch.load_file),
    ]


def torch_load(path: Path, mmap: bool = False) -> Any:
    return torch.load(path, weights_only=True, mmap=mmap)


def synced(save: Callable[[Any, Path], object]) -> Callable[[Any, Path], None]:
    """`save`, and then what it wrote is brought to the disk."""

    def both(obj: Any, path: Path) -> None:
        save(obj, path)
        for each in (path, path.parent):
            descriptor = os.open(each, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return both


def touch(obj: Dict[str, Any]) -> None:
    """Read a byte of each page of every tensor."""
    for tensor in obj.values():
        for part in parts(tensor):
            part.reshape(-1).view(torch.uint8)[::4096].sum()


def parts(tensor: torch.Tensor) -> List[torch.Tensor]:
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout == torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.detach()]


def measure(found: Sequence[Candidate], folder: Path, rounds: int) -> List[Row]:
    """Save all in turns, then load all in turns. Each must load what it saved."""
    paths = {candidate.name: folder / str(number) for number, candidate in enumerate(found)}
    with tqdm(unit="file", disable=None) as bar:  # how many warm up depends on how fast they are

        def timers(call: Callable[[Candidate], object], doing: str) -> Dict[str, Timer]:
            def of(candidate: Candidate) -> Callable[[], None]:
                def one() -> None:
                    bar.set_description(f"{doing}: {candidate.name}")
                    call(candidate)
                    bar.update()

                return one

            return {candidate.name: timer(of(candidate)) for candidate in found}

        def save(candidate: Candidate) -> None:
            candidate.save(candidate.obj, paths[candidate.name])

        def load(candidate: Candidate) -> None:
            touch(candidate.load(paths[candidate.name]))

        saving = take_turns(timers(save, "save"), rounds, 0.0)
        for candidate in found:
            check(candidate.load(paths[candidate.name]), candidate.obj)
        loading = take_turns(timers(load, "load"), rounds, 0.0)
    return [
        Row(candidate.name, paths[candidate.name].stat().st_size, saving[candidate.name], loading[candidate.name])
        for candidate in found
    ]


def check(made: Dict[str, Any], saved: Dict[str, Any]) -> None:
    if list(made) != list(saved) and set(made) != set(saved):
        raise AssertionError("the names have changed")
    for name, tensor in saved.items():
        if not all(torch.equal(one, other) for one, other in zip(parts(made[name]), parts(tensor))):
            raise AssertionError(f"{name} has changed")


def table(rows: Sequence[Row]) -> str:
    """Markdown: medians, and ratios to torch's dense file within a round (above 1: that many times faster)."""
    (dense,) = (row for row in rows if row.name == DENSE)
    lines = ["| | MB | save s | load s | smaller | faster to save | faster to load |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        faster = [ratio(dense.saving, row.saving).median, ratio(dense.loading, row.loading).median]
        cells = [f"{row.nbytes / 1e6:.1f}", f"{median(row.saving):.3f}", f"{median(row.loading):.3f}"]
        cells += [f"{value:.3g}" for value in (dense.nbytes / row.nbytes, *faster)]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(tables: Dict[str, str], command: str, rounds: int) -> str:
    """All of RESULTS.md."""
    around = circumstances()
    parts_ = [
        f"# A VGG-16 with {SPARSITY:.0%} of its weights pruned: size, save, load",
        "138 million random weights, float32, the smallest of each layer pruned. *smaller* and *faster* are against "
        "torch's file of the dense tensors: sizes, and the median over rounds of the ratio within a round. The "
        "candidates take turns; one thread. Every save ends with fsync of file and folder, that of the others too. "
        "Loads are from the page cache, and all pages of what is loaded are touched. *sparse layers* are the states of "
        "SparseConv2d and SparseLinear (values, row_ptr, col_idx).",
        f"- Machine: {around['machine']}\n- Versions: {around['versions']}, safetensors {safetensors.__version__}\n"
        f"- mpl-sparse: {around['commit']}\n- Date: {around['date']}\n- Command: `{command}`, {rounds} rounds",
    ]
    for title, text in tables.items():
        parts_ += [f"## {title}", text]
    return "\n\n".join(parts_) + "\n"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python tests/bench/files.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate")
    parser.add_argument("--folder", nargs="+", type=Path, help="default: the temporary folder and /dev/shm")
    parser.add_argument("--write", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error(f"argument --rounds: must be at least 1, got {options.rounds}")
    folders = options.folder or [Path(tempfile.gettempdir()), *filter(Path.is_dir, [Path("/dev/shm")])]
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = candidates(models.vgg16())
    tables = {}
    for parent in folders:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            tables[f"In {parent}"] = table(measure(found, Path(folder), options.rounds))
    options.write.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "tests/bench/files.py", *words])
    (options.write / "RESULTS.md").write_text(report(tables, command, options.rounds), encoding="utf-8")
    print(f"wrote {options.write / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
