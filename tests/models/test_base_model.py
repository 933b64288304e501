"""BaseModel: every method of the original's."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.models import BaseModel  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseLinear  # noqa: E402


class Small(BaseModel):
    """A convolution inside a block, a bias-free linear layer, and a BatchNorm that is not prunable."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Sequential(DenseConv2d(2, 4, 3)), nn.BatchNorm2d(4))
        self.head = DenseLinear(16, 5, bias=False)

    def forward(self, inputs):
        return self.head(self.block(inputs).flatten(1))


class Adopted(BaseModel):
    """Written as for the original library: the layers of a plain torch model, made prunable."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.clone_from_model(original)
        self.collect_prunable_layers()
        self.convert_eligible_layers()
        self.collect_prunable_layers()

    def forward(self, inputs):
        return self.second(self.first(inputs))


class Plain(nn.Module):
    """Two plain layers, a shared one and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Sequential(self.first, nn.ReLU())
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)


def test_base_model_is_abstract():
    with pytest.raises(TypeError):
        BaseModel()


def test_layers_are_found_in_the_tree():
    model = Small()
    assert model.prunable_layer_prefixes == ["block.0.0", "head"]
    assert model.prunable_layers == [model.block[0][0], model.head]
    model.head = DenseLinear(16, 7)
    assert model.prunable_layers[1] is model.head


def test_find_layers_gives_leaves_only():
    model = Small()
    layers, names = model.find_layers(lambda module: True)
    assert names == ["block.0.0", "block.1", "head"]
    assert layers == [model.block[0][0], model.block[1], model.head]
    assert model.find_layers(lambda module: isinstance(module, nn.Linear)) == ([model.head], ["head"])


def test_counts():
    model = Small()
    assert model.calc_num_prunable_params() == (72 + 4 + 80, 72 + 4 + 80)
    assert model.calc_num_prunable_params(count_bias=False) == (152, 152)
    model.prune_by_rank([22, 30])
    assert (model.nnz(), model.nelement()) == (104, 156)
    assert (model.nnz(count_bias=False), model.nelement(count_bias=False)) == (100, 152)
    assert model.density() == 104 / 156
    assert model.density(count_bias=False) == 100 / 152


def test_a_model_without_prunable_layers_has_density_0(capsys):
    class Empty(BaseModel):
        def forward(self, inputs):
            return inputs

    assert Empty().calc_num_prunable_params(display=True) == (0, 0)
    assert capsys.readouterr().out == "Total: remaining/all: 0/0 = 0.0\n"
    assert Empty().density() == 0.0


def test_modules_by_name():
    model = Small()
    assert model.get_module_by_name("block.0.0") is model.block[0][0]
    replacement = DenseConv2d(2, 4, 3)
    model.set_module_by_name("block.0.0", replacement)
    assert model.block[0][0] is replacement
    model.set_module_by_name("head", nn.Identity())
    assert isinstance(model.head, nn.Identity)
    with pytest.raises(AttributeError, match="nowhere"):
        model.get_module_by_name("nowhere.0")
    with pytest.raises(AttributeError, match="nowhere"):
        model.set_module_by_name("nowhere.0", replacement)


def test_masks_by_name():
    model = Small().prune_by_pct(0.5)
    assert torch.equal(model.get_mask_by_name("head.weight"), model.head.mask)
    assert model.get_mask_by_name("block.0.0.bias") is None
    assert model.get_mask_by_name("block.1.weight") is None
    assert torch.equal(model.to_sparse().get_mask_by_name("head.values"), model.head.mask)


@pytest.mark.parametrize("other", ["masked", "sparse"])
@pytest.mark.parametrize("own", ["masked", "sparse"])
def test_reinit_takes_the_masks_and_keeps_the_weights(own, other):
    fresh, final = Small(), Small().prune_by_pct([0.5, 0.25])
    start = copy.deepcopy(fresh)
    fresh, final = (model if kind == "masked" else model.to_sparse() for model, kind in ((fresh, own), (final, other)))
    fresh.reinit_from_model(final)
    for layer, final_layer, start_layer in zip(fresh.prunable_layers, final.prunable_layers, start.prunable_layers):
        assert torch.equal(layer.mask, final_layer.mask)
        assert torch.equal(layer.remaining_weight(), start_layer.weight[final_layer.mask])


def test_reinit_refuses_other_models():
    with pytest.raises(TypeError, match="final_model must be a Small"):
        Small().reinit_from_model(Adopted(Plain()))
    other = Small()
    other.head = DenseLinear(16, 7)
    model = Small()
    with pytest.raises(ValueError, match="final_model"):
        model.reinit_from_model(other.prune_by_pct(0.5))
    assert model.density() == 1.0


def test_adopting_a_plain_model():
    original = Plain()
    model = Adopted(original)
    assert type(model.first) is DenseLinear
    assert model.second[0] is model.first
    assert model.prunable_layer_prefixes == ["first"]
    assert torch.equal(model.first.weight, original.first.weight)
    assert model.first.weight is not original.first.weight
    assert model.scale == 2.0
    assert "scale" not in model.state_dict()


def test_pruning_a_sparse_model_changes_it_and_not_its_source():
    model = Small()
    sparse = model.to_sparse()
    assert isinstance(sparse.head, SparseLinear)
    assert sparse.prune_by_pct(0.5) is sparse
    assert sparse.nnz(count_bias=False) == 76
    assert model.density() == 1.0
    assert sparse.to_dense().nnz(count_bias=False) == 76


@pytest.mark.parametrize(
    "route", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_are_independent(route):
    model = Small().to_sparse().prune_by_pct(0.5)
    twin = route(model)
    twin.prune_by_pct(0.5)
    assert (model.nnz(False), twin.nnz(False)) == (76, 38)
    model.eval(), twin.eval()
    assert twin(torch.randn(2, 2, 4, 4)).shape == (2, 5)


def test_moving_a_model_keeps_its_masks():
    model = Small().prune_by_pct(0.5).to(torch.float64)
    assert model.head.weight.dtype == torch.float64
    assert model.head.mask.dtype == torch.bool
    assert model.nnz(False) == 76
