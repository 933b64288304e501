"""A few training steps of a sparse model beside those of plain torch on masked dense weights: the same numbers.

    python tests/wheel/training_step.py

Run where torch is, on the installed wheel; pytest is not needed.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

import mpl_sparse


def models(dtype: torch.dtype):
    """A pruned dense model with its masks, and the same model sparse."""
    dense = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU(),
        nn.Conv2d(24, 32, 1, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    ).to(dtype)  # fmt: skip
    masks = {}
    with torch.no_grad():
        for name, layer in dense.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                masks[name] = torch.rand_like(layer.weight) < 0.2
                layer.weight.mul_(masks[name])
    sparse = mpl_sparse.to_sparse(mpl_sparse.prunable(copy.deepcopy(dense)))
    return dense, masks, sparse


def compare(dtype: torch.dtype) -> float:
    """The largest relative difference after five steps: outputs, losses and weights."""
    torch.manual_seed(0)
    dense, masks, sparse = models(dtype)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in (dense, sparse)]
    worst = 0.0
    for _ in range(5):
        images, classes = torch.randn(6, 3, 16, 16, dtype=dtype), torch.randint(10, (6,))
        losses = []
        for model, optimizer in zip((dense, sparse), optimizers):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), classes)
            loss.backward()
            if model is dense:
                for name, mask in masks.items():
                    model.get_submodule(name).weight.grad.mul_(mask)
            optimizer.step()
            losses.append(loss.item())
        worst = max(worst, abs(losses[0] - losses[1]) / abs(losses[0]))
    for name in masks:
        layer, expected = sparse.get_submodule(name), dense.get_submodule(name).weight
        assert type(layer).__name__.startswith("Sparse") and torch.equal(layer.mask, masks[name]), name
        difference = (layer.weight.to_dense() - expected).abs().max() / expected.abs().max()
        worst = max(worst, difference.item())
    return worst


def main() -> None:
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        for backend in mpl_sparse.backends():
            mpl_sparse.set_backend(backend)
            worst = compare(dtype)
            assert worst < most, f"{worst} on {backend}"
            print(f"training steps equal torch {torch.__version__} to {worst:.1e}, {dtype}, {backend}")


if __name__ == "__main__":
    main()
