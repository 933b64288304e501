"""Measures what memory the training of a VGG-shaped model takes: dense, masked and sparse, and sparse with RigL.

    python tests/bench/memory.py                                      # the table
    python tests/bench/memory.py --write tests/bench/results/memory   # and RESULTS.md
    python tests/bench/memory.py --density 0.05 --image 96

Two figures for each case. One is counted: the bytes of the weights, of their gradients, of the optimizer's state, and
of the positions that masks and patterns are. The other is measured from outside: each case trains in a process of its
own, whose largest resident memory (VmHWM, which the kernel keeps) is taken against what it was before the model was
made. So it also holds activations, the plans of the kernels, and whatever else is allocated on the way. The sparse
model is made at random positions, never dense. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

if __package__ in (None, ""):
    # as in __main__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import nn

from bench import machine
from mpl_sparse import Pattern
from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear
from mpl_sparse.optim import follow_patterns
from mpl_sparse.pruning.dynamic import RigL

FORMS = ("dense", "masked", "sparse", "sparse, RigL")
OPTIMIZERS: Dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
}
STEPS = 4  # RigL moves weights in the third
BATCH = 4
WIDTHS = ([64], [128], [256] * 2, [512] * 2, [512] * 2)
FEATURES = (4096, 4096, 1000)

Make = Callable[..., nn.Module]


def main() -> None:
    """Measure every case in a process of its own, and print or write the table."""
    parser = argparse.ArgumentParser(prog="python tests/bench/memory.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--density", type=float, default=0.1, help="share of the weights that remain; default 0.1")
    parser.add_argument("--image", type=int, default=64, help="height and width, a multiple of 32; default 64")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write RESULTS.md there")
    parser.add_argument("--here", nargs=2, metavar=("FORM", "OPTIMIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(*options.here, options.density, options.image)))
        return
    rows = []
    for optimizer in OPTIMIZERS:
        for form in FORMS:
            arguments = ["--density", str(options.density), "--image", str(options.image), "--here", form, optimizer]
            command = [sys.executable, __file__, *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{optimizer}, {form}: {rows[-1]['peak'] / 2**20:.0f} MiB", file=sys.stderr)
    report = markdown(rows, options)
    print(report)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "RESULTS.md").write_text(report, encoding="utf-8")


def measure(form: str, optimizer_name: str, density: float, image: int) -> Dict[str, Any]:
    """Train in this process; bytes by name."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm_up()
    before = resident("VmRSS")
    if form == "dense":
        model = vgg(nn.Conv2d, nn.Linear, image)
    elif form == "masked":
        model = vgg(DenseConv2d, DenseLinear, image)
        for layer in model:
            if isinstance(layer, (DenseConv2d, DenseLinear)):
                layer.set_mask(torch.rand(layer.weight_shape) < density)
    else:
        model = vgg(scattered(SparseConv2d, density), scattered(SparseLinear, density), image)
    optimizer = follow_patterns(OPTIMIZERS[optimizer_name](model.parameters()))
    topology = RigL(model, optimizer, until=10 * STEPS, interval=3) if form == "sparse, RigL" else None
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(BATCH, 3, image, image)).square().mean().backward()
        if topology is None or not topology.step():
            optimizer.step()
    peak = resident("VmHWM") - before
    state = [each for entries in optimizer.state.values() for each in entries.values()]
    return {
        "form": form,
        "optimizer": optimizer_name,
        "weights": size(model.parameters()),
        "gradients": size(parameter.grad for parameter in model.parameters()),
        "state": size(each for each in state if isinstance(each, torch.Tensor)),
        "positions": size(model.buffers()),
        "peak": peak,
    }


def warm_up() -> None:
    """Load what torch loads when it is first used: some 50 MiB that belong to no model."""
    model = vgg(DenseConv2d, DenseLinear, 32, width=0.02)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(BATCH, 3, 32, 32)).square().mean().backward()
    optimizer.step()


def vgg(conv: Make, linear: Make, image: int, width: float = 1.0) -> nn.Sequential:
    """The shape of VGG-11 (Simonyan and Zisserman, arXiv:1409.1556), its first linear layer as `image` makes it."""
    layers: List[nn.Module] = []
    before = 3
    for widths in WIDTHS:
        for channels in widths:
            channels = max(1, int(width * channels))
            layers += [conv(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
            before = channels
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    before *= (image // 32) ** 2
    for features in FEATURES:
        features = max(1, int(width * features))
        layers += [linear(before, features), nn.ReLU(inplace=True)]
        before = features
    return nn.Sequential(*layers[:-1])


def scattered(kind: Any, density: float) -> Make:
    """Makes layers of the sparse `kind` with that share of weights at random positions, without a dense weight."""

    def make(inputs: int, outputs: int, *kernel: int, **options: int) -> nn.Module:
        shape = (outputs, inputs, *kernel * 2)
        cols = int(np.prod(shape[1:]))
        count = max(1, round(density * cols))
        generator = np.random.default_rng(0)
        rows = [np.sort(generator.choice(cols, count, replace=False, shuffle=False)) for _ in range(outputs)]
        pattern = Pattern.from_csr(np.arange(outputs + 1) * count, np.concatenate(rows).astype(np.int32), shape)
        layer = kind(inputs, outputs, *kernel, **options, pattern=pattern, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            layer.values.normal_(std=count**-0.5)
            layer.bias.zero_()
        return layer

    return make


def resident(which: str) -> int:
    """Bytes: VmRSS, what this process has in memory; VmHWM, the most that it ever had."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{which}:\s*(\d+) kB", text)
    assert found is not None, text
    return 1024 * int(found.group(1))


def size(tensors: Any) -> int:
    """Bytes of all of them."""
    return sum(each.numel() * each.element_size() for each in tensors)


def markdown(rows: List[Dict[str, Any]], options: argparse.Namespace) -> str:
    """The report."""
    words = ["--density", str(options.density), "--image", str(options.image)]
    words += ["--write", str(options.write)] if options.write else []
    around = machine.circumstances()
    lines = [
        "# Memory of a training step",
        "",
        f"VGG-11's shape for images of {options.image}x{options.image}, batch {BATCH}, float32, one thread; "
        f"{STEPS} steps; density {options.density:g} at random positions. MiB. *Sum* is weights + gradients + "
        "optimizer state, counted, and its share of dense's. *Positions* are the masks, or the patterns' row pointers "
        "and columns (of which the core holds a second copy). *Peak* is measured from outside: the largest resident "
        "memory of the process, less what it was before the model was made; it also holds the activations, the "
        "kernels' plans and all that is allocated on the way. With RigL the third step moves weights.",
        "",
        *(f"- {title}: {around[key]}" for title, key in TITLES),
        f"- Command: `{shlex.join(['python', 'tests/bench/memory.py', *words])}`",
        "",
        "| optimizer | form | weights | gradients | state | sum | of dense | positions | peak | of dense |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, dense in with_dense(rows):
        total, of_dense = (row["weights"] + row["gradients"] + row["state"] for row in (row, dense))
        figures = [row["weights"], row["gradients"], row["state"], total]
        cells = [f"{each / 2**20:.1f}" for each in figures] + [f"{total / of_dense:.1%}"]
        cells += [f"{row['positions'] / 2**20:.1f}", f"{row['peak'] / 2**20:.0f}", f"{row['peak'] / dense['peak']:.1%}"]
        lines.append(f"| {row['optimizer']} | {row['form']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


TITLES = (("Machine", "machine"), ("Versions", "versions"), ("mpl-sparse", "commit"), ("Date", "date"))


def with_dense(rows: List[Dict[str, Any]]) -> Iterator[Tuple[Dict[str, Any], Dict[str, Any]]]:
    """Each row with the dense one of the same optimizer."""
    dense = {row["optimizer"]: row for row in rows if row["form"] == "dense"}
    return ((row, dense[row["optimizer"]]) for row in rows)


if __name__ == "__main__":
    main()
