"""Training goes on from a file as if it had never stopped: optimizers, schedulers, generators, averages."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import dumps, loads  # noqa: E402
from mpl_sparse.nn import SparseConv2d, SparseLinear  # noqa: E402

OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
del OPTIMIZERS["SparseAdam"]  # takes sparse gradients only, which our layers do not have
OPTIMIZERS.pop("Muon", None)  # takes matrices only
OPTIMIZERS["mpl_sparse SGD"] = mpl_sparse.optim.SGD
OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "mpl_sparse SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "LBFGS": {"line_search_fn": "strong_wolfe", "max_iter": 3},
}


def network():
    """Of a convolution and a linear layer, each with a pattern of its own, always the same."""
    torch.manual_seed(1)
    model = nn.Sequential(SparseConv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), SparseLinear(64, 3))
    model[0].random_prune_by_pct(0.5)
    model[4].random_prune_by_pct(0.8)
    return model


def train(model, optimizer, scheduler, steps):
    torch.manual_seed(2)
    images, wanted = torch.randn(5, 2, 6, 6), torch.randn(5, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(images) - wanted).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        scheduler.step()


def optimizer_of(name, model, lr):
    return OPTIMIZERS[name](model.parameters(), lr=lr, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on(name):
    model = network()
    model[4].random_prune_by_pct(0.5)  # another pattern than a new model has
    optimizer = optimizer_of(name, model, 0.01)
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.5)
    train(model, optimizer, scheduler, 3)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    saved = loads(dumps({part: each.state_dict() for part, each in parts.items()}))

    other = network()
    other.load_state_dict(saved["model"])
    again = optimizer_of(name, other, 0.5)
    again.load_state_dict(saved["optimizer"])
    scheduler_again = lr_scheduler.StepLR(again, 2, 0.5)
    scheduler_again.load_state_dict(saved["scheduler"])
    train(model, optimizer, scheduler, 3)
    train(other, again, scheduler_again, 3)
    for key, tensor in model.state_dict().items():
        assert tensor.isfinite().all() and torch.equal(tensor, other.state_dict()[key]), key
    assert scheduler.state_dict() == scheduler_again.state_dict()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 3, 3]),
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 0.2),
        lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 5),
    ],
)
def test_schedulers(schedule):
    def rates(scheduler, optimizer):
        found = []
        for _ in range(4):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    optimizer = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    scheduler = schedule(optimizer)
    rates(scheduler, optimizer)
    saved = loads(dumps([optimizer.state_dict(), scheduler.state_dict()]))
    again = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    scheduler_again = schedule(again)
    again.load_state_dict(saved[0])
    scheduler_again.load_state_dict(saved[1])
    assert rates(scheduler_again, again) == rates(scheduler, optimizer)


def test_generators_and_averages():
    torch.manual_seed(5)
    saved = loads(dumps(torch.get_rng_state()))
    drawn = torch.randn(3)
    torch.set_rng_state(saved)
    assert torch.equal(torch.randn(3), drawn)
    average = mpl_sparse.optim.AveragedModel(network())
    average.update_parameters(network())
    other = mpl_sparse.optim.AveragedModel(network())
    other.load_state_dict(loads(dumps(average.state_dict())))
    assert int(other.n_averaged) == 1
    assert all(torch.equal(one, two) for one, two in zip(average.state_dict().values(), other.state_dict().values()))
