"""Prints what a call of each layer costs beside its kernel, in microseconds.

    python tests/bench/calls.py

Each layer has one nonzero and a tiny input, so that nearly all of its time is the call. "Core" is the compiled function
alone, on capsules made beforehand; "over core" is what the module, autograd and the exchange of tensors add. The
candidates take turns; a figure is the lowest of the rounds, in the processor time of one thread, so that other programs
count little.
"""

from __future__ import annotations

from time import thread_time
from typing import Callable, Dict

import torch
from torch import nn
from torch.utils.dlpack import to_dlpack

from mpl_sparse import _core
from mpl_sparse.geometry import conv2d_geometry
from mpl_sparse.nn import SparseConv2d, SparseLinear
from mpl_sparse.pattern import Pattern

ROUNDS = 25
CALLS = 1000


def lowest(candidates: Dict[str, Callable[[], object]]) -> Dict[str, float]:
    """Microseconds a call of each candidate."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS + 1):  # the first round builds plans
        for name, candidate in candidates.items():
            start = thread_time()
            for _ in range(CALLS):
                candidate()
            best[name] = min(best[name], (thread_time() - start) / CALLS * 1e6)
    return best


def one_position(*shape: int) -> Pattern:
    """A pattern with its first position only."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[0] = True
    return Pattern.from_mask(mask)


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    row, image = torch.randn(1, 4), torch.randn(1, 1, 8, 8)
    linear, dense_linear = SparseLinear(4, 4, pattern=one_position(4, 4)), nn.Linear(4, 4)
    conv, dense_conv = SparseConv2d(1, 1, 3, padding=1, pattern=one_position(1, 1, 3, 3)), nn.Conv2d(1, 1, 3, padding=1)
    geometry = conv2d_geometry(image.shape, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    # capsules that are lent, not consumed, serve every call
    row_arrays = [to_dlpack(tensor) for tensor in (linear.values, row, linear.bias, torch.empty(1, 4))]
    image_arrays = [to_dlpack(tensor) for tensor in (conv.values, image, conv.bias, torch.empty(1, 1, 8, 8))]
    candidates: Dict[str, Callable[[], object]] = {
        "core linear": lambda: _core.linear_forward(linear.pattern.handle, *row_arrays, 1),
        "SparseLinear": lambda: linear(row),
        "nn.Linear": lambda: dense_linear(row),
        "core conv2d": lambda: _core.conv2d_forward(conv.pattern.handle, geometry, *image_arrays, 1),
        "SparseConv2d": lambda: conv(image),
        "nn.Conv2d": lambda: dense_conv(image),
    }
    print(f"{'':<14}{'without grad':>14}{'over core':>11}{'with grad':>14}{'over core':>11}")
    with torch.no_grad():
        without = lowest(candidates)
    with_grad = lowest(candidates)
    for name in candidates:
        core = "core linear" if "Linear" in name else "core conv2d"
        cells = [name.ljust(14)]
        for figures in (without, with_grad):
            over = "" if name.startswith("core") else f"{figures[name] - figures[core]:.1f}"
            cells.append(f"{figures[name]:>14.1f}{over:>11}")
        print("".join(cells))


if __name__ == "__main__":
    main()
