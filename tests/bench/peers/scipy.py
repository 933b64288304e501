"""scipy's CSR matrices: linear layers, forward, one thread (it has no more)."""

from __future__ import annotations

import importlib.util
from typing import Callable, List, Optional

import torch

from ..task import FORWARD, Candidate, Task
from ..timing import timer
from .peer import Peer


class Scipy(Peer):
    name = "scipy"

    def unavailable(self) -> Optional[str]:
        return None if importlib.util.find_spec("scipy") else "scipy is not installed"

    def candidates(self, task: Task) -> List[Candidate]:
        if task.conv is not None or task.what != FORWARD or task.threads > 1:
            return []
        found = []
        for sparsity in task.masks:
            call = _call(task, sparsity)
            found.append(Candidate(self.name, sparsity, timer(call), lambda call=call: torch.from_numpy(call())))
        return found


def _call(task: Task, sparsity: float) -> Callable[[], object]:
    from scipy.sparse import csr_array

    weight, images = csr_array(task.sparse_weight(sparsity).numpy()), task.images.numpy()
    if len(images) == 1:  # a matrix times a vector has a loop of its own
        return lambda: (weight @ images[0])[None]
    return lambda: (weight @ images.T).T
