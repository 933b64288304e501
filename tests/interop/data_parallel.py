"""One process of a data parallel training: `data_parallel.py CASE RANK PROCESSES RENDEZVOUS RESULT`.

Each process takes its share of every batch. With one process there is no DistributedDataParallel: what all of them
together must come to. The outcome, a dict, is saved in the file RESULT.
"""

import contextlib
import pathlib
import sys
import warnings

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from twins import batches, gradients, twins, weights

from mpl_sparse.nn import prunable_layers
from mpl_sparse.optim import SGD


class Process:
    def __init__(self, rank, processes):
        self.rank, self.processes = rank, processes

    def wrapped(self, model, **options):
        return DistributedDataParallel(model, **options) if self.processes > 1 else model

    def step(self, model, optimizer=None, seed=1):
        ((input, target),) = batches(1, seed)
        part = slice(self.rank * 6 // self.processes, (self.rank + 1) * 6 // self.processes)
        model.zero_grad()
        nn.functional.cross_entropy(model(input[part]), target[part]).backward()
        if optimizer:
            optimizer.step()

    def model(self, kind, seed=0):
        model = twins(seed)[kind]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # each process would see the statistics of its own part
        return model


def outcome(model):
    return {"weights": weights(model), "gradients": gradients(model)}


def steps(process, kind, **options):
    model = process.model(kind)
    parallel, optimizer = process.wrapped(model, **options), SGD(model.parameters(), lr=0.05, momentum=0.9)
    for seed in range(3):
        process.step(parallel, optimizer, seed)
    return outcome(model)


def masked(process):
    return steps(process, 0)


def sparse(process):
    return steps(process, 1)


def views(process):
    return steps(process, 1, gradient_as_bucket_view=True, broadcast_buffers=False)


def pruned(process):
    """DistributedDataParallel is made anew after the layers were pruned; the optimizer stays."""
    model = process.model(1)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    for pct in (0.0, 0.3, 0.5):
        for _, layer in prunable_layers(model):
            layer.prune_by_pct(pct)
        parallel = process.wrapped(model)
        for seed in range(2):
            process.step(parallel, optimizer, seed)
    return outcome(model)


def moved(process):
    """As many weights as before, elsewhere: DistributedDataParallel stays."""
    model = process.model(1)
    parallel, optimizer = process.wrapped(model), SGD(model.parameters(), lr=0.05, momentum=0.9)
    for seed in range(3):
        process.step(parallel, optimizer, seed)
        for _, layer in prunable_layers(model):
            layer.set_mask(layer.mask.flatten(1).roll(1, 1).view(layer.weight_shape))
    process.step(parallel, optimizer)
    return outcome(model)


def stale(process):
    """DistributedDataParallel is not made anew."""
    model = process.model(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model[7].prune_by_pct(0.5)  # before it is made all is well
    parallel = process.wrapped(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model[7].prune_by_pct(0.5)
    process.step(parallel)
    error = ""
    try:
        process.step(parallel)
    except RuntimeError as raised:
        error = str(raised)
    return {"warnings": [str(each.message) for each in caught], "error": error}


def different(process):
    """Every process has pruned for itself."""
    model = process.model(1, seed=process.rank)
    error = ""
    try:
        process.step(process.wrapped(model))
    except RuntimeError as raised:
        error = str(raised)
    return {"error": error}


@contextlib.contextmanager
def process_group(rank, processes, rendezvous):
    if processes == 1:
        yield
        return
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    yield
    distributed.destroy_process_group()


if __name__ == "__main__":
    case, rank, processes, rendezvous, result = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group(int(rank), int(processes), rendezvous):
        torch.save(globals()[case](Process(int(rank), int(processes))), result)
