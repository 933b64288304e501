"""The models: the original's printed forms and shapes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.models import Conv2, Conv4, LeNet5, conv2, conv4, lenet5  # noqa: E402
from mpl_sparse.nn import SparseConv2d, SparseLinear  # noqa: E402

CONV2 = """\
Conv2(
  (features): Sequential(
    (0): DenseConv2d(1, 32, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    (1): ReLU(inplace=True)
    (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    (3): DenseConv2d(32, 64, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    (4): ReLU(inplace=True)
    (5): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (classifier): Sequential(
    (0): DenseLinear(in_features=3136, out_features=2048, bias=True)
    (1): ReLU(inplace=True)
    (2): DenseLinear(in_features=2048, out_features=62, bias=True)
  )
)"""

SPARSE_CONV2 = """\
Conv2(
  (features): Sequential(
    (0): SparseConv2d(1, 32, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=True)
    (1): ReLU(inplace=True)
    (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    (3): SparseConv2d(32, 64, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=True)
    (4): ReLU(inplace=True)
    (5): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (classifier): Sequential(
    (0): SparseLinear(in_features=3136, out_features=2048, bias=True)
    (1): ReLU(inplace=True)
    (2): SparseLinear(in_features=2048, out_features=62, bias=True)
  )
)"""

UNPRUNED = """\
Layer name: features.0. remaining/all: 832/832 = 1.0
Layer name: features.3. remaining/all: 51264/51264 = 1.0
Layer name: classifier.0. remaining/all: 6424576/6424576 = 1.0
Layer name: classifier.2. remaining/all: 127038/127038 = 1.0
Total: remaining/all: 6603710/6603710 = 1.0
"""

PRUNED = """\
Layer name: features.0. remaining/all: 752/832 = 0.9038461538461539
Layer name: features.3. remaining/all: 51264/51264 = 1.0
Layer name: classifier.0. remaining/all: 6424576/6424576 = 1.0
Layer name: classifier.2. remaining/all: 12760/127038 = 0.10044238731718069
Total: remaining/all: 6489352/6603710 = 0.9826827646883343
"""


def without_exact_zeros(model):
    """Of millions of random float32 weights one is often exactly 0, and to_sparse() drops it."""
    for parameter in model.parameters():
        parameter.data[parameter.data == 0] = 1e-6
    return model


def test_conv2_prints_as_the_original():
    assert str(conv2()) == CONV2


def test_sparse_conv2_prints_as_the_original():
    model = conv2()
    assert str(model.to_sparse()) == SPARSE_CONV2
    assert str(model) == CONV2


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_counts_print_as_the_original(storage, capsys):
    model = without_exact_zeros(conv2())
    if storage == "sparse":
        model = model.to_sparse()
    assert model.calc_num_prunable_params(display=True) == (6603710, 6603710)
    assert capsys.readouterr().out == UNPRUNED
    assert model.prune_by_pct([0.1, 0, None, 0.9]) is model
    assert model.calc_num_prunable_params(display=True) == (6489352, 6603710)
    assert capsys.readouterr().out == PRUNED
    assert model.calc_num_prunable_params() == (6489352, 6603710)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("make", "kind", "input_shape", "classes"),
    [
        (conv2, Conv2, (2, 1, 28, 28), 62),
        (conv4, Conv4, (2, 3, 84, 84), 2),
        (lenet5, LeNet5, (2, 784), 10),
    ],
)
def test_models_run_dense_and_sparse(make, kind, input_shape, classes):
    model = make().eval()
    assert type(model) is kind
    model.prune_by_pct(0.5)
    inputs = torch.randn(input_shape)
    expected = model(inputs)
    assert expected.shape == (2, classes)
    sparse = model.to_sparse()
    assert type(sparse) is kind
    assert all(isinstance(layer, (SparseConv2d, SparseLinear)) for layer in sparse.prunable_layers)
    torch.testing.assert_close(sparse(inputs), expected)
    torch.testing.assert_close(sparse.to_dense()(inputs), expected)


def test_models_take_channels_last_inputs():
    model = conv2().eval()
    inputs = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(model(inputs.to(memory_format=torch.channels_last)), model(inputs))


def test_conv4_is_the_network_of_leaf():
    """Convolution, batch norm, pool, ReLU, four times; the parameter counts of the original library."""
    kinds = [type(module).__name__ for module in conv4().features]
    assert kinds == ["DenseConv2d", "BatchNorm2d", "MaxPool2d", "ReLU"] * 4
    shapes = [tuple(layer.weight.shape) for layer in conv4().prunable_layers]
    assert shapes == [(32, 3, 3, 3), *[(32, 32, 3, 3)] * 3, (2, 1152)]
    assert [layer.padding for layer in conv4().features if isinstance(layer, nn.Conv2d)] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]


def test_lenet5_takes_any_leading_dimensions():
    model = lenet5().to_sparse()
    assert model(torch.randn(784)).shape == (10,)
    assert model(torch.randn(2, 3, 784)).shape == (2, 3, 10)
