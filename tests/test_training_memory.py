"""No buffer of the size of a dense weight in a training step of a sparse model: by torch's own account of what it
allocates, and from outside, by the most memory that a process ever had."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import memory  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse.nn import (  # noqa: E402
    DenseConv2d,
    DenseLinear,
    DenseLSTM,
    SparseConv2d,
    SparseLinear,
    prunable_layers,
    to_sparse,
)
from mpl_sparse.optim import follow_patterns  # noqa: E402
from mpl_sparse.pruning.dynamic import RigL  # noqa: E402

DENSITY = 0.02
# a layer, and its input
LAYERS = {
    "linear": (lambda linear, conv: linear(2048, 2048), (4, 2048)),
    "conv2d": (lambda linear, conv: conv(512, 1024, 3, padding=1), (2, 512, 4, 4)),
}
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": torch.optim.Adam,
}


def allocations(run, folder):
    """The bytes of each allocation that torch makes in `run()`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    return [event["args"]["Bytes"] for event in events if event["name"] == "[memory]" and event["args"]["Bytes"] > 0]


def steps_of(model, shape, make_optimizer, interval=None):
    """A function that makes a training step."""
    optimizer = follow_patterns(make_optimizer(model.parameters()))
    topology = None if interval is None else RigL(model, optimizer, until=100, interval=interval)

    def step():
        optimizer.zero_grad()
        output = model(torch.randn(shape, requires_grad=True))
        (output[0] if isinstance(output, tuple) else output).square().mean().backward()
        if topology is None or not topology.step():
            optimizer.step()

    return step


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)
def test_no_tensor_of_a_step_has_the_size_of_the_dense_weight(make, shape, make_optimizer, tmp_path):
    sparse = make(memory.scattered(SparseLinear, DENSITY), memory.scattered(SparseConv2d, DENSITY))
    dense_bytes = 4 * sparse.weight_shape.numel()
    step = steps_of(sparse, shape, make_optimizer)
    assert 0 < max(allocations(step, tmp_path)) < dense_bytes / 8  # also in the first one, which makes the state
    assert 0 < max(allocations(step, tmp_path)) < dense_bytes / 8
    # what a masked layer cannot do without: the account would tell
    masked = make(DenseLinear, DenseConv2d)
    assert max(allocations(steps_of(masked, shape, make_optimizer), tmp_path)) >= dense_bytes


@pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)
def test_an_update_of_the_positions_goes_block_by_block(make, shape, tmp_path):
    sparse = make(memory.scattered(SparseLinear, DENSITY), memory.scattered(SparseConv2d, DENSITY))
    pattern = sparse.pattern
    step = steps_of(sparse, shape, torch.optim.Adam, interval=2)
    step()
    assert 0 < max(allocations(step, tmp_path)) < sparse.weight_shape.numel()  # a quarter of the dense weight
    assert sparse.pattern != pattern and sparse.pattern.nnz == pattern.nnz


def test_an_lstm(tmp_path):
    masked = DenseLSTM(512, 512)
    for _, layer in prunable_layers(masked):
        layer.random_prune_by_pct(0.95)
    sparse = to_sparse(masked)
    dense_bytes = 4 * 4 * 512 * 512
    step = steps_of(sparse, (3, 2, 512), torch.optim.Adam, interval=3)
    largest = [max(allocations(step, tmp_path)) for _ in range(3)]
    assert largest[0] < dense_bytes / 8 and largest[1] < dense_bytes / 8
    assert largest[2] < dense_bytes / 1.5  # the update: here the blocks are a quarter of the weight


PROCESS = """
import sys
sys.path.append({tests!r})
from bench.memory import *

torch.set_num_threads(1)
make, shape = {make}, {shape}
warm_up()
before = resident("VmRSS")
layer = make(scattered(SparseLinear, {density}), scattered(SparseConv2d, {density}))
optimizer = follow_patterns(OPTIMIZERS["Adam"](layer.parameters()))
topology = RigL(layer, optimizer, until=100, interval=3)
for moves in (False, False, True):
    optimizer.zero_grad()
    layer(torch.randn(shape, requires_grad=True)).square().mean().backward()
    assert topology.step() is moves
    if not moves:
        optimizer.step()
    print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(
    "VmHWM" not in (Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""),
    reason="the kernel does not tell a process's largest memory",
)
@pytest.mark.parametrize(
    "make, shape, numel",
    [
        ("lambda linear, conv: linear(8192, 12288)", (16, 8192), 8192 * 12288),
        ("lambda linear, conv: conv(2048, 3072, 3, padding=1)", (2, 2048, 4, 4), 2048 * 3072 * 9),
    ],
    ids=["linear", "conv2d"],
)
def test_a_process_never_holds_a_dense_weight(make, shape, numel):
    tests = str(Path(__file__).parent)
    code = PROCESS.format(tests=tests, make=make, shape=shape, density=0.005)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, update = map(int, done.stdout.split())
    # All of it: weights, gradients, two moments, positions, plans, activations, scratch. Dense weights alone: 4 * numel
    assert first < 4 * numel / 6 and second < 4 * numel / 6
    assert update < 4 * numel / 4


def test_what_a_training_keeps_is_in_proportion_to_the_density():
    kept = {}
    for form in ("dense", "sparse"):
        torch.manual_seed(0)
        kinds = (
            (nn.Conv2d, nn.Linear)
            if form == "dense"
            else (memory.scattered(SparseConv2d, 0.1), memory.scattered(SparseLinear, 0.1))
        )
        model = memory.vgg(*kinds, image=32, width=0.1)
        for name, make_optimizer in memory.OPTIMIZERS.items():
            optimizer = make_optimizer(model.parameters())
            optimizer.zero_grad()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            state = [each for entries in optimizer.state.values() for each in entries.values()]
            kept[form, name] = memory.size(
                [*model.parameters(), *(parameter.grad for parameter in model.parameters()), *state]
            )
    for name in memory.OPTIMIZERS:
        assert kept["sparse", name] < 0.11 * kept["dense", name]


def test_the_report_takes_shares_of_the_dense_row_of_the_same_optimizer():
    mib = 2**20
    rows = [
        {
            "form": form,
            "optimizer": name,
            "weights": size * mib,
            "gradients": size * mib,
            "state": 2 * size * mib,
            "positions": 0,
            "peak": peak * mib,
        }
        for name, form, size, peak in [("A", "dense", 8, 40), ("A", "sparse", 1, 20), ("B", "dense", 4, 10)]
    ]
    options = argparse.Namespace(density=0.1, image=32, write=None)
    table = [line for line in memory.markdown(rows, options).splitlines() if line.startswith("| A |") or "| B" in line]
    assert table == [
        "| A | dense | 8.0 | 8.0 | 16.0 | 32.0 | 100.0% | 0.0 | 40 | 100.0% |",
        "| A | sparse | 1.0 | 1.0 | 2.0 | 4.0 | 12.5% | 0.0 | 20 | 50.0% |",
        "| B | dense | 4.0 | 4.0 | 8.0 | 16.0 | 100.0% | 0.0 | 10 | 100.0% |",
    ]
