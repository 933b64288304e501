"""Memory at its peak, as the system counts it: what a file and the object take, and little more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's counters of a process"
)

NOISE = 6_000_000  # caches of the interpreter and of malloc
MEASURE = """
import gc, json, os, sys, warnings
import torch, mpl_sparse
from mpl_sparse import load, save

warnings.simplefilter("ignore")
folder = sys.argv[1]

def counter(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))

def peak(call):
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest so far is what there is now
    before = counter("VmRSS")
    result = call()
    return counter("VmHWM") - before, result

def nbytes(obj):
    if isinstance(obj, dict):
        return sum(map(nbytes, obj.values()))
    if isinstance(obj, torch.nn.Module):
        return nbytes(obj.state_dict())
    if obj.layout == torch.sparse_coo:
        return obj._indices().nbytes + obj._values().nbytes
    if obj.layout == torch.sparse_csr:
        return obj.crow_indices().nbytes + obj.col_indices().nbytes + obj.values().nbytes
    return obj.nbytes

def model():
    made = mpl_sparse.models.synthetic_logistic_regression(8000, classes=1000)
    made.random_prune_by_pct(0.9)
    return made.to_sparse()

weight = torch.randn(3000, 4000)
pruned = torch.where(torch.rand(3000, 4000) < 0.1, weight, 0)
cases = {
    "dense": (weight, {}),
    "dense in zstd": (weight.bfloat16().float(), {"compress": "zstd"}),
    "rounded": (weight, {"dtype": "bfloat16"}),
    "rounded from float64": (weight.double(), {"dtype": "bfloat16"}),
    "dense with zeros": (pruned, {}),
    "csr": (pruned.to_sparse_csr(), {}),
    "coo": (pruned.to_sparse(), {}),
    "bitmap": (torch.where(torch.rand(3000, 4000) < 0.5, weight, 0).to_sparse(), {}),
    "huffman": (torch.where(torch.rand(3000, 4000) < 0.35, weight, 0), {}),
    "zeros": (torch.where(torch.rand(3000, 4000) < 0.9, weight, 0), {}),
    "bools": (pruned != 0, {}),
    "model": (model(), {}),
}
for options in ({}, {"compress": "zstd"}, {"dtype": "bfloat16"}):
    save(pruned[:100].clone(), os.path.join(folder, "warm"), **options)
    load(os.path.join(folder, "warm"))
load_model = os.path.join(folder, "warm model")
save(mpl_sparse.models.synthetic_logistic_regression(10).to_sparse(), load_model)
load(load_model)
found = {}
for name, (obj, options) in cases.items():
    path = os.path.join(folder, "file")
    saving, _ = peak(lambda: save(obj, path, **options))
    loading, made = peak(lambda: load(path))
    found[name] = {"file": os.path.getsize(path), "object": nbytes(made), "save": saving, "load": loading}
    del made
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    command = [sys.executable, "-c", MEASURE, str(tmp_path_factory.mktemp("memory"))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives back what is freed, and keeps none
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if "PermissionError" in done.stderr or "Errno" in done.stderr:
        pytest.skip(f"the counters may not be set back: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DENSE = ["dense", "dense in zstd", "rounded", "rounded from float64", "dense with zeros"]


@pytest.mark.parametrize("case", [*DENSE, "csr", "coo", "bitmap", "huffman", "zeros", "bools"])
def test_a_load_takes_no_more_than_the_file_and_the_object(measured, case):
    found = measured[case]
    assert found["load"] <= found["file"] + found["object"] + NOISE, found


def test_a_model_is_made_without_dense_weights(measured):
    """Its dense weight and mask would be 40 MB, and as much again where they are converted."""
    found = measured["model"]
    assert found["load"] <= found["file"] + 2 * found["object"] + 2 * NOISE < 40_000_000, found


def test_a_save_of_dense_values_copies_none(measured):
    assert measured["dense"]["save"] <= measured["dense"]["object"] / 4 + NOISE  # a byte for each: is it zero?
    found = measured["dense in zstd"]
    assert found["save"] <= found["object"] + found["object"] / 4 + 1.1 * found["file"] + NOISE, found
