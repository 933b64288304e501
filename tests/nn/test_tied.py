"""Which weights count as tied: prunable leaves them dense, and what they compute stays."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpl_sparse.nn import DenseLinear, SparseLinear, conversion_report, prunable, to_sparse  # noqa: E402
from mpl_sparse.pruning import prune_by_pct  # noqa: E402


def linears(count=2, size=4):
    return nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(count)))


def kinds(model):
    return [type(layer) for layer in model]


def why(model, name):
    return next(row.why for row in conversion_report(model).rows if row.name == name)


def assert_converts_alike(model, input):
    """Pruned, masked and sparse compute the same, forward and back."""
    prune_by_pct(model, 0.5)
    outputs = []
    for each in (model, to_sparse(model)):
        assert all(type(layer) in (DenseLinear, SparseLinear) for layer in each)
        given = input.clone().requires_grad_()
        output = each(given)
        (gradient,) = torch.autograd.grad(output.square().sum(), given)
        outputs.append((output.detach(), gradient))
    torch.testing.assert_close(*outputs)


def test_a_part_of_another_weight():
    model = linears()
    model[1].weight = nn.Parameter(model[0].weight.data[1:3])
    assert kinds(prunable(model)) == [nn.Linear, nn.Linear]
    assert why(model, "0") == "its weight is also 1.weight" and why(model, "1") == "its weight is also 0.weight"


def test_overlapping_slices_of_one_memory():
    memory = torch.randn(9, 4)
    model = linears(3)
    for layer, first in zip(model, (0, 3, 5)):  # the last two share two rows
        layer.weight = nn.Parameter(memory[first : first + 4])
    assert kinds(prunable(model)) == [nn.Linear] * 3


@pytest.mark.parametrize("by", ["rows", "columns", "every third row", "every third column"])
def test_slices_that_share_no_number_are_not_tied(by):
    """As where query, key and value are parts of one matrix."""
    memory = torch.randn(12, 12)
    model = linears(3)
    for i, layer in enumerate(model):
        part = {
            "rows": memory[4 * i : 4 * i + 4, :4],
            "columns": memory[:4, 4 * i : 4 * i + 4],
            "every third row": memory[i::3, :4],
            "every third column": memory[:4, i::3],
        }[by]
        layer.weight = nn.Parameter(part)
    assert_converts_alike(prunable(model), torch.randn(5, 4))


def test_a_strided_view_that_meets_another_one():
    memory = torch.randn(8, 4)
    model = linears(2)
    model[0].weight, model[1].weight = nn.Parameter(memory[0::2]), nn.Parameter(memory[1:5])
    assert kinds(prunable(model)) == [nn.Linear, nn.Linear]


def test_rows_that_are_all_the_same_memory():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    model[0].weight = nn.Parameter(torch.randn(1, 4).expand(3, 4))
    assert_converts_alike(prunable(model), torch.randn(2, 4))


def test_another_dtype_of_the_same_memory():
    model = linears()
    memory = torch.randn(4, 8)
    model[0].weight = nn.Parameter(memory[:, :4].view(torch.int32).view(torch.float32))
    model[1].weight = nn.Parameter(memory.view(torch.float64), requires_grad=False)
    assert kinds(prunable(model)) == [nn.Linear, nn.Linear]


def test_a_second_name_in_the_same_layer():
    model = linears(1)
    model[0].alias = model[0].weight
    assert kinds(prunable(model)) == [nn.Linear] and why(model, "0") == "its weight is also 0.alias"


@pytest.mark.parametrize(
    "buffer", [lambda weight: weight, lambda weight: weight.detach(), lambda weight: weight.data.t()]
)
def test_a_buffer_that_is_the_weight(buffer):
    model = linears()
    model.register_buffer("codebook", buffer(model[1].weight))
    assert kinds(prunable(model)) == [DenseLinear, nn.Linear] and why(model, "1") == "its weight is also codebook"


def test_a_parameter_of_the_root():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 3))
            self.out = nn.Linear(3, 3)
            self.out.weight = self.table

        def forward(self, input):
            return self.out(input)

    model = prunable(Model())
    assert type(model.out) is nn.Linear and why(model, "out") == "its weight is also table"


@pytest.mark.parametrize(
    "keep",
    [
        lambda layer: [layer],
        lambda layer: {"a": (layer,)},
        lambda layer: ({layer},),
        lambda layer: [nn.Sequential(layer)],
    ],
    ids=["list", "dict of tuple", "tuple of set", "list of model"],
)
def test_modules_that_torch_does_not_know_of(keep):
    model = linears()
    hidden = nn.Linear(4, 4)
    hidden.weight = model[1].weight
    model.kept = keep(hidden)
    assert kinds(prunable(model)) == [DenseLinear, nn.Linear]
    assert why(model, "1").startswith("its weight is also kept[")


def test_a_layer_in_a_list_is_not_tied_with_itself():
    model = linears()
    model.kept, model.back = [model[0], model], {"root": model}
    model[0].words = {str(i): i for i in range(100)}
    assert kinds(prunable(model)) == [DenseLinear, DenseLinear]
    sparse = to_sparse(model)
    assert sparse.kept[0] is sparse[0] and sparse.kept[1] is sparse.back["root"] is sparse


def test_tied_by_hand_after_prunable():
    model = prunable(linears(3))
    model[1].weight = nn.Parameter(model[0].weight.data[:2])
    with pytest.warns(UserWarning, match="stays dense: its weight is also"):
        sparse = to_sparse(model)
    assert kinds(sparse) == [DenseLinear, DenseLinear, SparseLinear]


def test_empty_weights_and_meta_are_not_tied():
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 0))
    assert kinds(prunable(model)) == [DenseLinear, DenseLinear]
    with torch.device("meta"):
        model = linears()
    assert kinds(prunable(model)) == [DenseLinear, DenseLinear]


def test_under_a_default_device():
    memory = torch.randn(4, 8)
    model = linears()
    model[0].weight, model[1].weight = nn.Parameter(memory[:, :4]), nn.Parameter(memory[:, 4:])
    with torch.device("meta"):
        assert kinds(prunable(model)) == [DenseLinear, DenseLinear]
