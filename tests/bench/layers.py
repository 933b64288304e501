"""Times sparse layers against dense PyTorch and writes a table of ratios.

    python tests/bench/layers.py                     # prints the table
    python tests/bench/layers.py --write RESULTS.md  # and writes it

The candidates take turns within one run, so that a busy machine disturbs all of them alike; the figures are medians.
"Dense" is the faster of NCHW and channels_last of eager PyTorch. It is kernel against kernel: what a Python layer adds
around either is not in the figures.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Callable, List, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import mpl_sparse
from mpl_sparse.autograd import kernels
from mpl_sparse.geometry import conv2d_geometry

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
ROUNDS = 9
ROUND_SECONDS = 0.01


class Conv(NamedTuple):
    """A convolution with 'same'-like padding; `size` is the input's height and width."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1
    batch: int = 1


class Linear(NamedTuple):
    """A linear layer."""

    name: str
    in_features: int
    out_features: int
    batch: int = 1


LAYERS = (
    Conv("conv 3x3 64->64 @56", 64, 64, 3, 56),
    Conv("conv 3x3 128->128 @28", 128, 128, 3, 28),
    Conv("conv 3x3 256->256 @14", 256, 256, 3, 14),
    Conv("conv 3x3 512->512 @7", 512, 512, 3, 7),
    Conv("conv 3x3 stride 2 128->128 @56", 128, 128, 3, 56, 2),
    Conv("conv 1x1 256->64 @56", 256, 64, 1, 56),
    Conv("conv 1x1 1024->256 @14", 1024, 256, 1, 14),
    Conv("conv 7x7 stride 2 3->64 @224", 3, 64, 7, 224, 2),
    Conv("conv 5x5 1->32 @28", 1, 32, 5, 28),
    Conv("conv 5x5 32->64 @14", 32, 64, 5, 14),
    Conv("depthwise 3x3 256 @28", 256, 256, 3, 28, 1, 256),
    Conv("conv 3x3 64->64 @56, batch 8", 64, 64, 3, 56, batch=8),
    Conv("conv 3x3 512->512 @7, batch 16", 512, 512, 3, 7, batch=16),
    Linear("linear 512->1000", 512, 1000),
    Linear("linear 3136->2048", 3136, 2048),
    Linear("linear 3136->2048, batch 32", 3136, 2048, 32),
    Linear("linear 3136->2048, batch 128", 3136, 2048, 128),
)


class Row(NamedTuple):
    """Dense milliseconds, and how many times faster the sparse layer is, for each sparsity."""

    dense: float
    ratios: List[float]


def medians(candidates: Sequence[Callable[[], object]]) -> List[float]:
    """Seconds a call of each candidate, measured in turns."""
    calls = []
    for candidate in candidates:
        candidate()  # builds plans
        start = perf_counter()
        candidate()
        calls.append(max(1, int(ROUND_SECONDS / (perf_counter() - start))))
    rounds = [[seconds(candidate, n) / n for candidate, n in zip(candidates, calls)] for _ in range(ROUNDS)]
    return [median(times) for times in zip(*rounds)]


def seconds(candidate: Callable[[], object], calls: int) -> float:
    """The time of so many calls."""
    start = perf_counter()
    for _ in range(calls):
        candidate()
    return perf_counter() - start


def sparse_weight(shape: Sequence[int], sparsity: float) -> tuple[Tensor, mpl_sparse.Pattern]:
    """Values and pattern of a random weight of which that share is pruned."""
    mask = torch.rand(tuple(shape)) >= sparsity
    return torch.randn(int(mask.sum())), mpl_sparse.Pattern.from_mask(mask)


def conv_candidates(layer: Conv) -> tuple[list, list]:
    """(forwards, training steps): two dense candidates, then one for each sparsity."""
    shape = (layer.out_channels, layer.in_channels // layer.groups, layer.kernel, layer.kernel)
    pad = layer.kernel // 2
    options = dict(stride=layer.stride, padding=pad, groups=layer.groups)
    images = torch.randn(layer.batch, layer.in_channels, layer.size, layer.size)
    weight = torch.randn(shape)
    grad = torch.randn_like(F.conv2d(images, weight, **options))
    backward = torch.ops.aten.convolution_backward
    sizes = ([layer.stride] * 2, [pad] * 2, [1, 1], False, [0, 0], layer.groups, [True, True, False])
    forwards, steps = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        x, w, g = (tensor.to(memory_format=layout) for tensor in (images, weight, grad))
        forwards.append(lambda x=x, w=w: F.conv2d(x, w, **options))
        steps.append(lambda x=x, w=w, g=g: (F.conv2d(x, w, **options), backward(g, x, w, None, *sizes)))
    for sparsity in SPARSITIES:
        values, pattern = sparse_weight(shape, sparsity)
        geometry = conv2d_geometry(
            tuple(images.shape),
            layer.out_channels,
            (layer.kernel,) * 2,
            (layer.stride,) * 2,
            (pad,) * 4,
            (1, 1),
            layer.groups,
        )
        forwards.append(lambda v=values, p=pattern, s=geometry: kernels.conv2d_forward(images, v, None, p, s))
        steps.append(
            lambda v=values, p=pattern, s=geometry: (
                kernels.conv2d_forward(images, v, None, p, s),
                kernels.conv2d_grad_input(grad, v, p, s, images.shape),
                kernels.conv2d_grad_values(images, grad, p, s),
            )
        )
    return forwards, steps


def linear_candidates(layer: Linear) -> tuple[list, list]:
    """(forwards, training steps): one dense candidate, then one for each sparsity."""
    batch, weight = torch.randn(layer.batch, layer.in_features), torch.randn(layer.out_features, layer.in_features)
    grad = torch.randn(layer.batch, layer.out_features)
    forwards = [lambda: F.linear(batch, weight)]
    steps = [lambda: (F.linear(batch, weight), grad @ weight, grad.t() @ batch)]
    for sparsity in SPARSITIES:
        values, pattern = sparse_weight(weight.shape, sparsity)
        forwards.append(lambda v=values, p=pattern: kernels.linear_forward(batch, v, None, p))
        steps.append(
            lambda v=values, p=pattern: (
                kernels.linear_forward(batch, v, None, p),
                kernels.linear_grad_input(grad, v, p),
                kernels.linear_grad_values(batch, grad, p),
            )
        )
    return forwards, steps


def row(candidates: Sequence[Callable[[], object]]) -> Row:
    """The candidates' times as one row of a table."""
    times = medians(candidates)
    dense = min(times[: -len(SPARSITIES)])
    return Row(1000 * dense, [dense / sparse for sparse in times[-len(SPARSITIES) :]])


def table(title: str, rows: dict[str, Row]) -> str:
    """Markdown."""
    lines = [f"## {title}", "", "| layer | dense ms |" + "".join(f" {s:.0%} |" for s in SPARSITIES)]
    lines.append("|---|---|" + "---|" * len(SPARSITIES))
    for name, (dense, ratios) in rows.items():
        lines.append(f"| {name} | {dense:.3f} |" + "".join(f" {ratio:.2g}x |" for ratio in ratios))
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return (
        f"{cpu or platform.machine()}, backend {mpl_sparse.backend()}, {torch.get_num_threads()} thread(s), float32, "
        f"torch {torch.__version__}, mpl-sparse {mpl_sparse.__version__} {commit}".rstrip()
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    forward, step = {}, {}
    with torch.no_grad():
        for layer in LAYERS:
            forwards, steps = conv_candidates(layer) if isinstance(layer, Conv) else linear_candidates(layer)
            forward[layer.name], step[layer.name] = row(forwards), row(steps)
            print(layer.name, " ".join(f"{r:.2g}x" for r in forward[layer.name].ratios), flush=True)
    text = "\n\n".join(
        [
            "# Sparse layers against dense PyTorch",
            f"How many times faster than dense, by the share of weights pruned at random. {machine()}.",
            f"Made by `python tests/bench/layers.py --threads {options.threads} --write FILE`.",
            table("Forward", forward),
            table("Training step: forward, gradient to the input, gradient of the weight", step),
        ]
    )
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
