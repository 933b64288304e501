"""The known faults of the original library, one test each. They must not come back."""

from __future__ import annotations

import copyreg
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.models import conv2, conv4, lenet5  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear  # noqa: E402
from mpl_sparse.optim import SGD  # noqa: E402

ALL_LAYERS = {
    "DenseConv2d": lambda: DenseConv2d(4, 6, 3),
    "DenseLinear": lambda: DenseLinear(20, 6),
    "SparseConv2d": lambda: SparseConv2d(4, 6, 3),
    "SparseLinear": lambda: SparseLinear(20, 6),
}
every_layer = pytest.mark.parametrize("make", ALL_LAYERS.values(), ids=ALL_LAYERS)


def test_momentum_accumulates():
    layer = SparseLinear(3, 1, bias=False)
    start = layer.values.detach().clone()
    optimizer = SGD(layer.parameters(), lr=1.0, momentum=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(layer.values, start - (1 + 1.5 + 1.75))


def test_pruning_a_converted_model_prunes_that_model():
    model = lenet5()
    sparse = model.to_sparse()
    sparse.prune_by_pct(0.5)
    assert (model.density(count_bias=False), sparse.density(count_bias=False)) == (1.0, 0.5)
    assert all(isinstance(layer, SparseLinear) for layer in sparse.prunable_layers)
    assert all(isinstance(layer, DenseLinear) for layer in model.prunable_layers)


@every_layer
def test_every_layer_counts_and_prunes(make):
    layer = make()
    size = layer.num_weight
    layer.prune_by_pct(0.25)
    layer.prune_by_rank(1)
    assert layer.num_weight == size - int(0.25 * size) - 1
    layer.prune_by_threshold(10.0)
    assert layer.num_weight == 0


@every_layer
def test_random_pruning_works(make):
    layer = make()
    size = layer.num_weight
    layer.random_prune_by_pct(0.5)
    assert layer.num_weight == size - size // 2


@every_layer
@pytest.mark.parametrize("prune", ["prune_by_pct", "random_prune_by_pct"])
def test_everything_may_be_pruned(make, prune):
    layer = make()
    getattr(layer, prune)(1.0)
    assert layer.num_weight == 0
    output = layer(torch.ones(2, 4, 5, 5) if "Conv" in type(layer).__name__ else torch.ones(2, 20))
    assert torch.isfinite(output).all()


@every_layer
def test_equal_weights_are_pruned(make):
    layer = make()
    size = layer.num_weight
    with torch.no_grad():
        next(layer.parameters()).fill_(0.5)
    layer.prune_by_rank(7)
    assert layer.num_weight == size - 7


def test_conv4_has_its_layers_and_its_relus():
    model = conv4()
    assert len(model.prunable_layers) == 5
    assert model.prune_by_pct(0.5).density() < 0.6
    assert sum(isinstance(module, nn.ReLU) for module in model.features) == 4


def test_no_bias_is_no_bias():
    layer = DenseConv2d(2, 3, 3, bias=False).to_sparse()
    assert layer.bias is None
    assert "bias=False" in repr(layer)
    assert [name for name, _ in layer.named_parameters()] == ["values"]
    zero = DenseConv2d(2, 3, 3)
    nn.init.zeros_(zero.bias)
    assert "bias=True" in repr(zero.to_sparse())


@pytest.mark.parametrize("make", [DenseConv2d, SparseConv2d])
def test_masks_are_saved(make):
    layer, other = make(2, 3, 3), make(2, 3, 3)
    layer.prune_by_pct(0.5)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.mask, layer.mask)
    assert other.num_weight == 27


def test_importing_leaves_the_pickling_of_tensors_alone():
    code = """
import copyreg, mpl_sparse, torch
for name in mpl_sparse.__all__: getattr(mpl_sparse, name)
assert torch.Tensor not in copyreg.dispatch_table
assert torch.nn.Parameter not in copyreg.dispatch_table
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    assert torch.Tensor not in copyreg.dispatch_table


def test_a_saved_sparse_layer_is_smaller_than_a_dense_one(tmp_path):
    layer = DenseLinear(500, 500)
    layer.prune_by_pct(0.9)
    torch.save(layer.state_dict(), tmp_path / "dense")
    torch.save(layer.to_sparse().state_dict(), tmp_path / "sparse")
    assert 4 * (tmp_path / "sparse").stat().st_size < (tmp_path / "dense").stat().st_size


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_empty_tensors(size):
    layer = SparseLinear(*size)
    layer.prune_by_pct(0.5)
    assert layer(torch.ones(3, size[0])).shape == (3, size[1])
    assert layer.density == 0.0


def test_padding_mode_and_dtype_are_kept():
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    inputs = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    for layer in (DenseConv2d.from_conv2d(conv), DenseConv2d.from_conv2d(conv).to_sparse()):
        torch.testing.assert_close(layer(inputs), conv(inputs))


def test_nested_convolutions_are_found():
    """As in ResNet's downsample paths and DenseNet's transitions."""
    from mpl_sparse import prunable
    from mpl_sparse.nn import prunable_layers

    block = nn.Module()
    block.conv = nn.Conv2d(2, 2, 3)
    block.downsample = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model = prunable(nn.Sequential(block, nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 1))))
    assert [name for name, _ in prunable_layers(model)] == ["0.conv", "0.downsample.0", "1.2"]


@pytest.mark.parametrize("shape", [(20,), (3, 20), (2, 3, 20)])
def test_sparse_linear_takes_any_rank(shape):
    layer = DenseLinear(20, 6)
    inputs = torch.randn(shape)
    torch.testing.assert_close(layer.to_sparse()(inputs), layer(inputs))


def test_pruning_keeps_the_optimizer():
    layer = SparseLinear(20, 6)
    optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    layer.prune_by_rank(60)
    optimizer.zero_grad()
    layer(torch.ones(1, 20)).sum().backward()
    before = layer.values.detach().clone()
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0] is layer.values
    assert (layer.values != before).all()


def test_weight_gradients_are_sparse():
    layer = conv2().prune_by_pct(0.9).to_sparse().classifier[0]
    layer(torch.randn(2, 3136)).sum().backward()
    assert layer.values.grad.shape == (layer.num_weight,)
    assert sum(parameter.numel() for parameter in layer.parameters()) == layer.num_weight + 2048


def test_arguments_are_checked_even_when_asserts_are_off():
    code = """
import mpl_sparse
from mpl_sparse.models import lenet5
for call in (lambda m: m.prune_by_pct([0.5]), lambda m: m.prune_by_pct(1.5), lambda m: m.prune_by_rank(-1)):
    try:
        call(lenet5())
    except ValueError:
        continue
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-O", "-c", code], check=True, env=os.environ)
