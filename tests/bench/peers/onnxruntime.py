"""onnxruntime with dense weights: forward."""

from __future__ import annotations

import importlib.util
from typing import List, Optional

import torch

from ..task import FORWARD, Candidate, Task
from ..timing import timer
from .onnx_models import layer_model
from .peer import Peer


class OnnxRuntime(Peer):
    name = "onnxruntime"

    def unavailable(self) -> Optional[str]:
        missing = [module for module in ("onnxruntime", "onnx") if not importlib.util.find_spec(module)]
        if missing:
            return f"{' and '.join(missing)} not installed"
        if self.backend is not None:
            return f"it cannot be kept from instructions beyond {self.backend}"
        return None

    def candidates(self, task: Task) -> List[Candidate]:
        if task.what != FORWARD:
            return []
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the others' turns
        model = layer_model(task, task.weight).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # Bound input and output: numpy's conversions at each call are no part of the kernel.
        binding = session.io_binding()
        binding.bind_cpu_input("x", task.images.numpy())
        binding.bind_output("y", "cpu")

        def result() -> torch.Tensor:
            session.run_with_iobinding(binding)
            return torch.from_numpy(binding.copy_outputs_to_cpu()[0])

        return [Candidate(self.name, None, timer(lambda: session.run_with_iobinding(binding)), result)]
