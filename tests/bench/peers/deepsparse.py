"""DeepSparse 1.8, in a virtual environment of its own: forward. Its licence is for evaluation: a peer, never a part.

Release 1.9 on the package index is empty; 1.8.0 is the last one that computes.
"""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import List, Optional

from ..task import FORWARD, Candidate, Task
from .onnx_models import layer_model
from .remote import RemotePeer


class DeepSparse(RemotePeer):
    name = "DeepSparse"
    engine = "deepsparse"
    requirements = ("deepsparse==1.8.0",)
    pythons = ("3.10", "3.11", "3.9", "3.8")

    def __init__(self, environments: Path, backend: Optional[str] = None) -> None:
        super().__init__(environments, backend)
        self.variables = {"NM_DISABLE_ANALYTICS": "True", **({"NM_ARCH": backend} if backend else {})}

    def unavailable(self) -> Optional[str]:
        if platform.machine() not in ("x86_64", "aarch64"):
            return f"there is none for {platform.machine()}"
        if self.backend not in (None, "avx512", "avx2"):
            return f"it has no {self.backend} backend"
        if not importlib.util.find_spec("onnx"):
            return "onnx, which makes its models, is not installed"
        return super().unavailable()

    def candidates(self, task: Task) -> List[Candidate]:
        if task.what != FORWARD:
            return []
        return [
            self.candidate(
                layer_model(task, task.sparse_weight(sparsity)).SerializeToString(),
                task.images,
                task.threads,
                sparsity,
            )
            for sparsity in task.masks
        ]
