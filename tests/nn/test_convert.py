"""Conversion of whole models: roots, shared modules, tied weights, and what stays untouched."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from mpl_sparse.nn import (  # noqa: E402
    DenseConv2d,
    DenseLinear,
    SparseConv2d,
    SparseLinear,
    prunable,
    prunable_layers,
    to_dense,
    to_sparse,
)


def plain_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 3))
    )


def test_prunable_in_place_with_the_same_parameters():
    model = plain_model().eval()
    parameters, input = list(model.parameters()), torch.randn(2, 1, 6, 6)
    expected = model(input)
    assert prunable(model) is model and torch.equal(model(input), expected)
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert [name for name, _ in prunable_layers(model)] == ["0", "4.0", "4.1"]
    assert [type(layer) for _, layer in prunable_layers(model)] == [DenseConv2d, DenseLinear, DenseLinear]
    assert prunable(model)[0] is model[0]  # twice is once


def test_a_root_that_is_a_layer():
    linear = nn.Linear(3, 2)
    layer = prunable(linear)
    assert type(layer) is DenseLinear and layer.weight is linear.weight
    sparse = to_sparse(layer)
    assert type(sparse) is SparseLinear and type(to_dense(sparse)) is DenseLinear


def test_subclasses_are_left_alone():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = prunable(nn.Sequential(Doubled(2, 2)))
    assert type(model[0]) is Doubled and prunable_layers(model) == []


def test_to_sparse_and_back_leave_the_model_alone():
    model = prunable(plain_model()).eval()
    for _, layer in prunable_layers(model):
        layer.prune_by_pct(0.5)
    before = copy.deepcopy(model)
    input = torch.randn(2, 1, 6, 6)
    sparse = to_sparse(model)
    assert [type(layer) for _, layer in prunable_layers(sparse)] == [SparseConv2d, SparseLinear, SparseLinear]
    assert not sparse.training and sparse[1] is not model[1]
    torch.testing.assert_close(sparse(input), model(input))
    dense = to_dense(sparse)
    torch.testing.assert_close(dense(input), model(input))
    for _, layer in prunable_layers(sparse):
        layer.prune_by_pct(1.0)
    assert str(model) == str(before)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values()))
    assert [layer.density for _, layer in prunable_layers(dense)] == [0.5] * 3


def test_shared_modules_stay_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.other = nn.ModuleDict({"same": self.one})

        def forward(self, input):
            return self.other["same"](self.one(input))

    model = prunable(Twice())
    assert model.one is model.other["same"] and len(prunable_layers(model)) == 1
    for converted in (to_sparse(model), to_dense(to_sparse(model))):
        assert converted.one is converted.other["same"]
        input = torch.randn(2, 3)
        torch.testing.assert_close(converted(input), model(input))


def test_tied_weights_stay_dense_with_a_warning():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    model[1].weight = model[0].weight
    prunable(model)
    with pytest.warns(UserWarning, match="1 stays dense"):
        sparse = to_sparse(model)
    assert type(sparse[1]) is DenseLinear and sparse[1].weight is sparse[0].weight and type(sparse[2]) is SparseLinear
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_sparse(prunable(plain_model()))


def test_dense_weights_are_never_copied_twice(monkeypatch):
    model = prunable(nn.Sequential(nn.Linear(4, 4)))
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("a dense weight was copied"))
    to_sparse(model)


def test_an_optimizer_made_before_keeps_working():
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    prunable(model)
    before = model[0].weight.clone()
    model(torch.randn(2, 1, 6, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize("function", [prunable, prunable_layers, to_sparse, to_dense])
def test_refusals(function):
    with pytest.raises(TypeError, match="model must be an nn.Module, got list"):
        function([nn.Linear(2, 2)])


def test_a_weight_made_by_a_hook_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    prune.l1_unstructured(model[1], "weight", 0.5)
    before = list(model)
    with pytest.raises(ValueError, match="prune.remove"):
        prunable(model)
    assert list(model) == before and type(model[0]) is nn.Linear
    prune.remove(model[1], "weight")
    x = torch.rand(3, 4, dtype=torch.float64)
    expected = model(x)
    assert torch.allclose(to_sparse(prunable(model))(x), expected)


def test_layers_are_made_under_a_default_device():
    with torch.device("meta"):
        conv, linear = SparseConv2d(2, 3, 3), SparseLinear(3, 4)
    assert conv.values.is_meta and linear.values.is_meta
    assert (conv.num_weight, linear.num_weight) == (54, 12)
