"""Dense eager PyTorch: the baseline. Convolutions as NCHW and as channels_last."""

from __future__ import annotations

from typing import Callable, List

import torch
import torch.nn.functional as F
from torch import Tensor

from ..task import TRAINING, Candidate, Task
from ..timing import timer
from .peer import Peer

LAYOUTS = {"torch NCHW": torch.contiguous_format, "torch channels_last": torch.channels_last}


class TorchDense(Peer):
    name = "torch"

    def candidates(self, task: Task) -> List[Candidate]:
        calls = (
            {self.name: _linear(task)} if task.conv is None else {name: _conv(task, LAYOUTS[name]) for name in LAYOUTS}
        )
        return [Candidate(name, None, timer(call), baseline=True) for name, call in calls.items()]


def _linear(task: Task) -> Callable[[], object]:
    images, weight, grad = task.images, task.weight, task.grad
    if task.what == TRAINING:
        return lambda: (F.linear(images, weight), grad @ weight, grad.t() @ images)
    return lambda: F.linear(images, weight)


def _conv(task: Task, layout: torch.memory_format) -> Callable[[], object]:
    def laid_out(tensor: Tensor) -> Tensor:
        return tensor.to(memory_format=layout)

    images, weight, grad = laid_out(task.images), laid_out(task.weight), laid_out(task.grad)
    options = task.conv_options()
    if task.what != TRAINING:
        return lambda: F.conv2d(images, weight, **options)
    stride, padding, dilation = ([options[key]] * 2 for key in ("stride", "padding", "dilation"))
    sizes = (stride, padding, dilation, False, [0, 0], options["groups"], [True, True, False])
    backward = torch.ops.aten.convolution_backward
    return lambda: (F.conv2d(images, weight, **options), backward(grad, images, weight, None, *sizes))
