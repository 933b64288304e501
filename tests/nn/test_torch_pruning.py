"""Layers that torch.nn.utils.prune has pruned: its masks are honoured."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from mpl_sparse import conversion_report, prunable, to_dense, to_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear  # noqa: E402


def model():
    layers = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    model = nn.Sequential(*layers).double()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[3], "weight", 0.75)
    prune.l1_unstructured(model[3], "weight", 0.5)  # a container of two methods
    return model


def images():
    return torch.randn(2, 2, 6, 6, dtype=torch.float64)


def test_masks_become_the_layers_own():
    plain, x = model(), images()
    expected, parameters = plain(x), list(plain.parameters())
    masks = plain[0].weight_mask != 0, plain[3].weight_mask != 0
    assert prunable(plain) is plain
    assert (type(plain[0]), type(plain[3])) == (DenseConv2d, DenseLinear)
    assert torch.equal(plain[0].mask, masks[0]) and torch.equal(plain[3].mask, masks[1])
    assert torch.equal(plain(x), expected)
    assert all(a is b for a, b in zip(plain.parameters(), parameters)) and not plain[0]._forward_pre_hooks
    assert conversion_report(plain).rows[0].why == "masked, as by torch.nn.utils.prune"
    assert sorted(plain[0].state_dict()) == ["bias", "mask", "weight"]
    torch.testing.assert_close(to_sparse(plain)(x), expected)


def test_they_become_sparse_directly():
    plain, x = model(), images()
    expected = plain(x)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    sparse = to_sparse(plain)
    assert (type(sparse[0]), type(sparse[3]), type(sparse[5])) == (SparseConv2d, SparseLinear, nn.Linear)
    assert sparse[0].density == 0.5 and not sparse[0]._forward_pre_hooks and "weight" not in vars(sparse[0])
    torch.testing.assert_close(sparse(x), expected)
    torch.testing.assert_close(to_dense(sparse)(x), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert torch.equal(plain(x), expected)
    assert type(SparseLinear.from_dense(plain[3])) is SparseLinear


def test_training_goes_on_alike():
    plain, x = model(), images()
    prune.l1_unstructured(plain[5], "weight", 0.5)
    sparse = to_sparse(plain)
    for each in (plain, sparse):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(sparse(x), plain(x))


def test_a_pruned_bias_goes_on_being_pruned():
    x = torch.randn(5, 6)
    plain = nn.Sequential(nn.Linear(6, 4))
    prune.l1_unstructured(plain[0], "weight", 0.5)
    prune.l1_unstructured(plain[0], "bias", 2)
    expected = plain(x)
    sparse = to_sparse(plain)
    torch.testing.assert_close(sparse(x), expected)
    masked = prunable(copy_of_state(plain))
    torch.testing.assert_close(masked(x), expected)
    for each in (sparse, masked, to_sparse(masked), to_dense(sparse)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(x).sum().backward()
        optimizer.step()
        assert torch.equal(each(x.mul(0))[0] == 0, plain[0].bias_mask == 0)


def copy_of_state(plain):
    """deepcopy refuses a layer that torch has pruned and run."""
    fresh = nn.Sequential(nn.Linear(6, 4))
    prune.identity(fresh[0], "weight")
    prune.identity(fresh[0], "bias")
    fresh.load_state_dict(plain.state_dict())
    return fresh


def test_a_layer_that_stays_dense_beside_them_does_not_stop_the_copy():
    class Twice(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    plain = nn.Sequential(Twice(6, 6), nn.Linear(6, 6))
    for layer in plain:
        prune.l1_unstructured(layer, "weight", 0.5)
    x = torch.randn(2, 6)
    expected = plain(x)
    sparse = to_sparse(plain)
    assert type(sparse[0]) is Twice and type(sparse[1]) is SparseLinear
    torch.testing.assert_close(sparse(x), expected)


def test_a_mask_of_other_numbers_is_left_alone():
    plain = nn.Sequential(nn.Linear(2, 2))
    prune.custom_from_mask(plain[0], "weight", torch.full((2, 2), 0.5))
    assert type(prunable(plain)[0]) is nn.Linear
    assert "other numbers than 0 and 1" in conversion_report(plain).rows[0].why


def test_a_masked_layer_that_torch_prunes_again():
    layer = prunable(nn.Linear(6, 6))
    layer.prune_by_pct(0.5)
    prune.random_unstructured(layer, "weight", 0.5)
    x = torch.randn(2, 6)
    expected = layer(x)
    sparse = to_sparse(layer)
    assert 0 < sparse.density < 0.5
    torch.testing.assert_close(sparse(x), expected)


@pytest.mark.parametrize("kind", ["masked", "sparse"])
def test_its_checkpoints_load(kind):
    source, target = model(), prunable(copy.deepcopy(nn.Sequential(*map(plain_twin, model()))))
    target = to_sparse(target) if kind == "sparse" else target
    checkpoint = source.state_dict()
    assert "0.weight_orig" in checkpoint
    target.load_state_dict(checkpoint)
    assert target[0].density == 0.5
    x = images()
    torch.testing.assert_close(target(x), source(x))


def plain_twin(layer):
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(2, 4, 3).double()
    return nn.Linear(layer.in_features, layer.out_features).double() if isinstance(layer, nn.Linear) else layer
