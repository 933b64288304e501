"""One training: the network, its data, and steps of SGD whose learning rate depends on the step alone."""

from __future__ import annotations

from typing import Iterator, List, Tuple

import torch
from torch import Tensor, nn

from ..demo.digits import load_digits, split_digits
from ..demo.training import BATCH, Tensors, accuracy, as_tensors
from ..nn import prunable_layers
from ..optim import SGD

__all__ = ["Training", "network", "rescale"]

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-4
DROPS = (0.7, 0.9)  # shares of all steps from which on the learning rate is a tenth, then a hundredth


def network() -> nn.Sequential:
    """71,568 weights. Input (N, 1, 8, 8), output (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(inplace=True),
        nn.Linear(128, 10),
    )


class Training:
    """A training of `epochs` epochs, some steps at a time. Random numbers are torch's: seed them first."""

    def __init__(self, epochs: int) -> None:
        self.data, self._held_out = map(as_tensors, split_digits(load_digits()))
        self.total = epochs * -(-len(self.data[1]) // BATCH)
        self._batches = self._forever()

    def optimizer(self, model: nn.Module) -> SGD:
        """A new one, of which nothing is remembered."""
        return SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def batches(self, count: int) -> List[Tensors]:
        """The next `count` batches, for scores that need data."""
        return [next(self._batches) for _ in range(count)]

    def steps(self, optimizer: SGD, first: int, last: int) -> Iterator[Tuple[int, Tensor, Tensor]]:
        """(step, images, labels) of the steps from `first` to before `last`, at the learning rate of each."""
        for step in range(first, last):
            drops = sum(step >= share * self.total for share in DROPS)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * 0.1**drops
            yield (step, *next(self._batches))

    def run(self, model: nn.Module, optimizer: SGD, first: int, last: int) -> None:
        """Those steps, and nothing else."""
        for _, images, labels in self.steps(optimizer, first, last):
            self.backward(model, optimizer, images, labels)
            optimizer.step()

    @staticmethod
    def backward(model: nn.Module, optimizer: SGD, images: Tensor, labels: Tensor) -> None:
        """The gradients of one step."""
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()

    def accuracy(self, model: nn.Module) -> float:
        """On the digits that are held out."""
        return accuracy(model, self._held_out)

    def _forever(self) -> Iterator[Tensors]:
        images, labels = self.data
        while True:
            for batch in torch.randperm(len(labels)).split(BATCH):
                yield images[batch], labels[batch]


@torch.no_grad()
def rescale(model: nn.Module) -> None:
    """Give a layer that starts sparse the signals of a dense one: its weights times 1 / sqrt(density).

    A sum over fewer weights is smaller: at 2% the signal of an unscaled network is gone after three layers. For random
    patterns; what a score chooses has its own. Evci et al., "Gradient flow in sparse neural networks and how lottery
    tickets win" (2020, arXiv:2010.03533).
    """
    for _, layer in prunable_layers(model):
        if layer.density > 0:
            weight: Tensor = layer.values if hasattr(layer, "values") else layer.weight
            weight.mul_(layer.density**-0.5)
