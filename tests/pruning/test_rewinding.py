"""Rewinding: survivors get their old weights back, whatever form the layers have then and now."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import odd_models  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from odd_models import batches, odd_forms  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers, to_dense, to_sparse  # noqa: E402
from mpl_sparse.pruning import Rewinding, prune  # noqa: E402

every_form = pytest.mark.parametrize("form", odd_models.FORMS)


def effective(model):
    """What the model computes with: dense weights with zeros, and everything else."""
    state = {}
    for name, layer in prunable_layers(model):
        weight = torch.zeros(layer.weight_shape, dtype=torch.float64)
        weight[layer.mask] = layer.remaining_weight()
        state[f"{name}.weight"] = weight
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.detach().clone()
    for name, tensor in [*model.norm.named_parameters(), *model.norm.named_buffers()]:
        state[f"norm.{name}"] = tensor.detach().clone()
    return state


def train(model, steps=2):
    optimizer = mpl_sparse.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for inputs, classes in batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(inputs), classes).backward()
        optimizer.step()


@every_form
def test_lottery_ticket(form):
    _, model, _ = odd_forms(form)
    before = effective(model)
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    rewinding = Rewinding(model)
    for _ in range(2):
        train(model)
        prune(model, pct=0.3)
        trained = effective(model)
        rewinding.rewind(model)
        masks = {f"{name}.weight": layer.mask for name, layer in prunable_layers(model)}
        after = effective(model)
        for name, tensor in before.items():
            expected = torch.where(masks[name], tensor, 0) if name in masks else tensor
            assert torch.equal(after[name], expected)
        assert not torch.equal(trained["first.weight"], after["first.weight"])
    assert parameters == {name: id(parameter) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("change", [to_sparse, to_dense])
@every_form
def test_the_form_may_have_changed(form, change):
    _, model, _ = odd_forms(form)
    before = effective(model)
    rewinding = Rewinding(model)
    train(model)
    other = change(prune(model, pct=0.3))
    rewinding.rewind(other)
    masks = {f"{name}.weight": layer.mask for name, layer in prunable_layers(other)}
    for name, tensor in effective(other).items():
        assert torch.equal(tensor, torch.where(masks[name], before[name], 0) if name in masks else before[name])


def test_what_a_sparse_layer_did_not_have_is_zero():
    model = to_sparse(prune(nn.Sequential(nn.Linear(4, 3)), 0.5))
    rewinding, mask = Rewinding(model), model[0].mask
    old = model[0].remaining_weight().clone()
    model[0].set_mask(torch.ones(3, 4, dtype=torch.bool))
    nn.init.ones_(model[0].values)
    rewinding.rewind(model)
    assert torch.equal(model[0].remaining_weight()[mask.flatten()], old)
    assert not model[0].remaining_weight()[~mask.flatten()].any()


@every_form
@pytest.mark.parametrize("through", ["torch", "ours"])
def test_through_a_file(form, through, tmp_path):
    _, model, _ = odd_forms(form)
    before, rewinding = effective(model), Rewinding(model)
    if through == "torch":
        torch.save(rewinding.state_dict(), tmp_path / "then")
        state = torch.load(tmp_path / "then", weights_only=True)
    else:
        mpl_sparse.save(rewinding.state_dict(), tmp_path / "then")
        state = mpl_sparse.load(tmp_path / "then")
    train(model)
    again = Rewinding(model)
    again.load_state_dict(state)
    again.rewind(model)
    after = effective(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_another_model_is_refused_and_stays():
    one = prunable(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    for other in [
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)),
    ]:
        before = {name: tensor.clone() for name, tensor in prunable(other).state_dict().items()}
        with pytest.raises(ValueError, match="which it did not have then"):
            Rewinding(one).rewind(other)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(TypeError, match="model must be an nn.Module, got int"):
        Rewinding(3)
    with pytest.raises(ValueError, match="what Rewinding.state_dict gave"):
        Rewinding(one).load_state_dict({})
