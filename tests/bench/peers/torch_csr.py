"""torch's own sparse CSR tensors (MKL on x86-64): linear layers."""

from __future__ import annotations

import warnings
from typing import Callable, List

import torch
from torch import Tensor

from ..task import TRAINING, Candidate, Task
from ..timing import timer
from .peer import Peer


class TorchCSR(Peer):
    name = "torch CSR"

    def candidates(self, task: Task) -> List[Candidate]:
        if task.conv is not None:
            return []
        found = []
        for sparsity in task.masks:
            forward, step = _calls(task, sparsity)
            training = task.what == TRAINING
            found.append(Candidate(self.name, sparsity, timer(step if training else forward), forward))
        return found


def _calls(task: Task, sparsity: float) -> tuple[Callable[[], Tensor], Callable[[], object]]:
    """A forward, and a training step. The transposed weight is made beforehand, to CSR's advantage."""
    dense = task.sparse_weight(sparsity)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR tensor support is in beta state"
        weight, transposed = dense.to_sparse_csr(), dense.t().to_sparse_csr()
    images, grad = task.images, task.grad

    def forward() -> Tensor:
        return (weight @ images.t()).t()

    def step() -> object:
        return forward(), (transposed @ grad.t()).t(), torch.sparse.sampled_addmm(weight, grad.t(), images, beta=0.0)

    return forward, step
