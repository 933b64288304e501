"""Prints what a second thread brings to layers of many sizes, alone and between operations of torch.

    python tests/bench/threads.py          # on torch's threads, where the core is lent them
    python tests/bench/threads.py --pool   # on the core's own pool

"Alone" is one call after another; "between" is a layer followed by batch normalisation and ReLU over a tensor of their
own, of which only the layer's calls are timed: torch's threads may then still be spinning on the cores. The two counts
of threads take turns; a time is the lowest of the rounds, for another program on either core makes the others longer.
The size is 2 * nonzeros * outputs a channel, in MFLOP.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Callable, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from mpl_sparse import _core
from mpl_sparse.nn import SparseConv2d, SparseLinear
from mpl_sparse.pattern import Pattern

ROUNDS = 15
ROUND_SECONDS = 0.01


class Case(NamedTuple):
    """A layer at 90% sparsity; `size` is the height and width of its images, 0 for a linear layer."""

    channels: int
    kernel: int = 1
    size: int = 0
    batch: int = 1


CASES = (
    *(Case(channels, batch=1) for channels in (256, 512, 724, 1024, 1448, 2048, 4096)),
    *(Case(channels, batch=32) for channels in (64, 128, 256, 512, 1024)),
    *(Case(channels, 3, 7) for channels in (32, 64, 128, 256, 512)),
    *(Case(channels, 3, 14) for channels in (16, 32, 64, 128, 256)),
    *(Case(channels, 3, 28) for channels in (8, 16, 32, 64, 128)),
    *(Case(channels, 3, 56) for channels in (8, 16, 32, 64)),
    *(Case(channels, 1, 28) for channels in (16, 32, 64, 128, 256)),
)


def built(case: Case) -> Tuple[nn.Module, Tensor, float]:
    """The layer, its input, and its size in MFLOP."""
    n, kernel = case.channels, case.kernel
    if case.size:
        pattern = Pattern.from_mask(torch.rand(n, n, kernel, kernel) < 0.1)
        layer: nn.Module = SparseConv2d(n, n, kernel, padding=kernel // 2, pattern=pattern)
        input = torch.randn(case.batch, n, case.size, case.size)
    else:
        pattern = Pattern.from_mask(torch.rand(n, n) < 0.1)
        layer = SparseLinear(n, n, pattern=pattern)
        input = torch.randn(case.batch, n)
    return layer, input, 2e-6 * pattern.nnz * case.batch * max(1, case.size) ** 2


def alone(layer: nn.Module, input: Tensor, calls: int) -> float:
    """Seconds of so many calls."""
    start = perf_counter()
    for _ in range(calls):
        layer(input)
    return perf_counter() - start


def between(layer: nn.Module, input: Tensor, calls: int) -> float:
    """The same, each followed by two operations of torch, which are not in the time."""
    images, norm, total = torch.randn(1, 64, 28, 28), nn.BatchNorm2d(64).eval(), 0.0
    for _ in range(calls):
        start = perf_counter()
        layer(input)
        total += perf_counter() - start
        torch.relu(norm(images))
    return total


def best(measure: Callable[[nn.Module, Tensor, int], float], layer: nn.Module, input: Tensor) -> Dict[int, float]:
    """Seconds a call with one thread and with two."""
    times: Dict[int, List[float]] = {1: [], 2: []}
    calls = 0
    for _ in range(ROUNDS):
        for count, seconds in times.items():
            torch.set_num_threads(count)
            measure(layer, input, 3)  # builds plans and wakes threads
            calls = calls or max(3, int(ROUND_SECONDS / (measure(layer, input, 3) / 3)))
            seconds.append(measure(layer, input, calls) / calls)
    return {count: min(seconds) for count, seconds in times.items()}


@torch.no_grad()
def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pool", action="store_true", help="use the core's own pool")
    if parser.parse_args().pool:
        _core.set_team(0)
    print("on torch's OpenMP threads" if _core.team() else "on the core's own pool")
    times = f"{'1 thread':>13}{'2 threads':>13}{'ratio':>7}"
    print(f"{'':<30}{'alone':>33}{'between':>33}\n{'':<22}{'MFLOP':>8}{times}{times}")
    for case in CASES:
        layer, input, mflop = built(case)
        name = (
            f"conv {case.kernel}x{case.kernel} {case.channels} @{case.size}" if case.size else f"linear {case.channels}"
        )
        name += f", batch {case.batch}" if case.batch > 1 else ""
        cells = [f"{name:<22}{mflop:>8.2f}"]
        for measure in (alone, between):
            one, two = best(measure, layer, input).values()
            cells.append(f"{one * 1e6:>10.1f} us{two * 1e6:>10.1f} us{one / two:>7.2f}")
        print("".join(cells), flush=True)


if __name__ == "__main__":
    main()
