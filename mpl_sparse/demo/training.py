"""The demo's network and its training: plain PyTorch, nothing of it knows about sparsity."""

from __future__ import annotations

from typing import Callable, Tuple

import torch
from torch import Tensor, nn

from .digits import Digits

__all__ = ["BATCH", "accuracy", "as_tensors", "network", "train", "training_step"]

BATCH = 64

Tensors = Tuple[Tensor, Tensor]  # images (N, 1, 8, 8) float32 and labels (N,) int64


def network() -> nn.Sequential:
    """A dense network of 283,424 weights. Input (N, 1, 8, 8), output (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, 10),
    )


def as_tensors(digits: Digits) -> Tensors:
    """The digits as the network wants them, images scaled to 0..1."""
    return torch.from_numpy(digits.images).unsqueeze(1) / 16.0, torch.from_numpy(digits.labels).long()


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Forward, backward and one step of the optimizer."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Tensors,
    epochs: int,
    after_epoch: Callable[[], object] = lambda: None,
) -> None:
    """Run over the data `epochs` times, in a new random order each time."""
    images, labels = data
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            training_step(model, optimizer, images[batch], labels[batch])
        after_epoch()


@torch.no_grad()
def accuracy(model: nn.Module, data: Tensors) -> float:
    """The share of images whose largest output is the label's."""
    images, labels = data
    return (model(images).argmax(1) == labels).double().mean().item()
