"""mpl_sparse.optim.SGD is torch.optim.SGD, step for step."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.nn import prunable, to_sparse  # noqa: E402
from mpl_sparse.optim import SGD  # noqa: E402
from mpl_sparse.pruning import prune_by_pct  # noqa: E402

OPTIONS = {
    "plain": {},
    "tensor lr": {"lr": torch.tensor(0.03)},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "momentum": 0.9},
    "loop": {"foreach": False, "momentum": 0.9},
    "foreach": {"foreach": True, "momentum": 0.9, "weight_decay": 0.1},
    "fused": {"fused": True, "momentum": 0.9, "weight_decay": 0.1},
    "everything": {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True, "maximize": True, "foreach": True},
}


def sparse_model():
    torch.manual_seed(0)
    return to_sparse(prune_by_pct(prunable(nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 3))), 0.5))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_torch_on_the_same_values(options):
    options = {"lr": 0.05, **options}
    model = sparse_model()
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in model.parameters()]
    optimizer, expected = SGD(model.parameters(), **options), torch.optim.SGD(twins, **options)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(4, 2, 4, 4)).tanh().sum().backward()
        for parameter, twin in zip(model.parameters(), twins):
            twin.grad = parameter.grad.clone()
        optimizer.step()
        expected.step()
        assert all(torch.equal(parameter, twin) for parameter, twin in zip(model.parameters(), twins))


def test_differentiable_steps_carry_gradients():
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def after_two_steps(make, values, gradient):
        parameter = values.clone()
        optimizer = make([parameter], lr=0.1, momentum=0.9, differentiable=True)
        for _ in range(2):
            parameter.grad = gradient
            optimizer.step()
        return parameter

    ours, expected = (after_two_steps(make, values, gradient) for make in (SGD, torch.optim.SGD))
    assert torch.equal(ours, expected)
    for got, want in zip(*(torch.autograd.grad(result.sum(), (values, gradient)) for result in (ours, expected))):
        assert torch.equal(got, want)


def test_a_closure_gives_the_loss():
    model = sparse_model()
    optimizer = SGD(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2, 4, 4)).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


def test_parameters_without_a_gradient_stay():
    model = sparse_model()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = model[0].values.detach().clone()
    model[2](torch.ones(1, 20)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].values, before)
    assert model[0].values not in optimizer.state


def test_the_constructor_is_torchs():
    ours, torchs = (inspect.signature(make).parameters for make in (SGD, torch.optim.SGD))
    assert [(p.name, p.default) for p in ours.values() if p.kind == p.POSITIONAL_OR_KEYWORD] == [
        (p.name, p.default) for p in torchs.values() if p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    with pytest.raises(ValueError, match="Nesterov"):
        SGD(sparse_model().parameters(), lr=0.1, nesterov=True)
    assert isinstance(SGD(sparse_model().parameters()), torch.optim.SGD)


def test_learning_rate_schedules_work():
    model = sparse_model()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(2):
        model(torch.ones(1, 2, 4, 4)).sum().backward()
        optimizer.step()
        schedule.step()
        prune_by_pct(model, 0.3)
    assert optimizer.param_groups[0]["lr"] == 0.25
