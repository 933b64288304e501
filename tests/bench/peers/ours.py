"""mpl-sparse: its kernels, without the Python layer above them, as the dense peers' kernels are called too."""

from __future__ import annotations

from typing import Callable, List, Tuple

from torch import Tensor

from mpl_sparse import Pattern
from mpl_sparse.autograd import kernels
from mpl_sparse.geometry import conv2d_geometry

from ..task import TRAINING, Candidate, Task
from ..timing import timer
from .peer import Peer


class Ours(Peer):
    name = "mpl-sparse"

    def candidates(self, task: Task) -> List[Candidate]:
        found = []
        for sparsity in task.masks:
            forward, step = _calls(task, sparsity)
            training = task.what == TRAINING
            found.append(Candidate(self.name, sparsity, timer(step if training else forward), forward))
        return found


def _calls(task: Task, sparsity: float) -> Tuple[Callable[[], Tensor], Callable[[], object]]:
    """A forward, and a whole training step."""
    mask, images, grad = task.masks[sparsity], task.images, task.grad
    pattern, values = Pattern.from_mask(mask), task.weight[mask]
    if task.conv is None:

        def forward() -> Tensor:
            return kernels.linear_forward(images, values, None, pattern)

        def step() -> object:
            return (
                forward(),
                kernels.linear_grad_input(grad, values, pattern),
                kernels.linear_grad_values(images, grad, pattern),
            )

    else:
        layer = task.conv
        geometry = conv2d_geometry(
            tuple(images.shape),
            layer.out_channels,
            (layer.kernel,) * 2,
            (layer.stride,) * 2,
            (layer.padding,) * 4,
            (layer.dilation,) * 2,
            layer.groups,
        )

        def forward() -> Tensor:
            return kernels.conv2d_forward(images, values, None, pattern, geometry)

        def step() -> object:
            return (
                forward(),
                kernels.conv2d_grad_input(grad, values, pattern, geometry, images.shape),
                kernels.conv2d_grad_values(images, grad, pattern, geometry),
            )

    return forward, step
