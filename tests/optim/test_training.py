"""A training run on real digits, masked dense against sparse: the losses stay together."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.demo.digits import load_digits  # noqa: E402
from mpl_sparse.nn import prunable, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD  # noqa: E402
from mpl_sparse.pruning import prune_by_pct, random_prune_by_pct  # noqa: E402

STEPS = 200


def losses_of(model, optimizer, images, labels, steps):
    order = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(labels), (32,), generator=order)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


# Rounding differs and 200 steps of momentum amplify it: the bounds leave a factor of 1,000 and more over the precision.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-3)], ids=str)
def test_200_steps_masked_and_sparse(dtype, tolerance):
    torch.manual_seed(0)
    images, labels = load_digits()
    images, labels = torch.from_numpy(images).unsqueeze(1).to(dtype) / 16, torch.from_numpy(labels).long()
    masked = prunable(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(144, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 10),
        )
    ).to(dtype)
    random_prune_by_pct(masked, [0.3, 0.8, 0.9, 0.5])
    sparse = to_sparse(masked)
    masked_losses, sparse_losses = (
        losses_of(model, optimizer(model.parameters(), lr=0.02, momentum=0.9, nesterov=True), images, labels, STEPS)
        for model, optimizer in ((masked, torch.optim.SGD), (sparse, SGD))
    )
    assert masked_losses[-20:].mean() < 0.4 * masked_losses[:5].mean()
    torch.testing.assert_close(sparse_losses, masked_losses, rtol=tolerance, atol=tolerance)


def test_memory_of_a_sparse_run_is_proportional_to_its_weights():
    model = to_sparse(prune_by_pct(prunable(nn.Sequential(nn.Linear(200, 100, bias=False))), 0.95))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 200)).sum().backward()
    optimizer.step()
    tensors = [
        *model.parameters(),
        *(p.grad for p in model.parameters()),
        optimizer.state[model[0].values]["momentum_buffer"],
    ]
    assert [tensor.numel() for tensor in tensors] == [1000] * 3
    assert copy.deepcopy(model)[0].values.numel() == 1000
