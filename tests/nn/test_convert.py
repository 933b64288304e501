"""Conversion of whole models: roots, shared modules, tied weights, and what stays untouched."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, weight_norm  # noqa: E402

from mpl_sparse.nn import (  # noqa: E402
    DenseConv2d,
    DenseLinear,
    SparseConv2d,
    SparseLinear,
    conversion_report,
    prunable,
    prunable_layers,
    to_dense,
    to_sparse,
)


def why(model, name):
    """What the report on `model` says of the layer."""
    return next(row.why for row in conversion_report(model).rows if row.name == name)


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
    assert layer is linear and type(layer) is DenseLinear
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
    assert type(model[1]) is nn.Linear and type(model[2]) is DenseLinear
    assert why(model, "1") == "its weight is also 0.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_sparse(model)[1].weight is not model[0].weight
    model[1] = DenseLinear.from_linear(model[1])  # by hand
    with pytest.warns(UserWarning, match="1 stays dense: its weight is also 0.weight"):
        sparse = to_sparse(model)
    assert type(sparse[1]) is DenseLinear and sparse[1].weight is sparse[0].weight and type(sparse[2]) is SparseLinear


def test_weights_tied_by_their_memory_stay_dense():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    prunable(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, DenseLinear]
    decoder = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    decoder[1].weight = nn.Parameter(decoder[0].weight.t())
    assert prunable_layers(prunable(decoder)) == []


def test_a_tied_bias_stays_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].bias = model[0].bias
    model[2].bias = model[0].bias
    sparse = to_sparse(prunable(model))
    assert type(sparse[0]) is type(sparse[1]) is SparseLinear
    assert sparse[0].bias is sparse[1].bias is sparse[2].bias is not model[0].bias
    dense = to_dense(sparse)
    assert dense[0].bias is dense[1].bias is dense[2].bias is not sparse[0].bias


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


@pytest.mark.parametrize("function", [prunable, prunable_layers, to_sparse, to_dense, conversion_report])
def test_refusals(function):
    with pytest.raises(TypeError, match="model must be an nn.Module, got list"):
        function([nn.Linear(2, 2)])


def test_layers_are_made_under_a_default_device():
    with torch.device("meta"):
        conv, linear = SparseConv2d(2, 3, 3), SparseLinear(3, 4)
    assert conv.values.is_meta and linear.values.is_meta
    assert (conv.num_weight, linear.num_weight) == (54, 12)


def test_whoever_holds_a_layer_holds_the_prunable_one():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.steps = [self.fc, torch.tanh]
            self.bound = self.fc.forward

        def forward(self, input):
            return self.steps[1](self.steps[0](input))

    model = prunable(Listed())
    model.fc.prune_by_pct(0.5)
    input = torch.randn(2, 3)
    expected = torch.tanh(nn.functional.linear(input, model.fc.masked_weight, model.fc.bias))
    assert torch.equal(model(input), expected)
    sparse = to_sparse(model)
    assert sparse.steps[0] is sparse.fc and type(sparse.fc) is SparseLinear
    torch.testing.assert_close(sparse(input), expected)


def test_subclasses_that_change_only_how_they_are_built_are_prunable():
    class Square(nn.Linear):
        """A linear layer of equal sizes."""

        def __init__(self, size):
            super().__init__(size, size)

        def reset_parameters(self):
            nn.init.orthogonal_(self.weight)

    class Scaled(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(input, 2 * weight, bias)

    model = prunable(nn.Sequential(Square(3), Scaled(1, 1, 1)))
    assert type(model[0]) is DenseLinear and type(model[1]) is Scaled
    assert why(model, "1") == "a subclass of Conv2d that may compute otherwise"


def test_a_layer_with_a_forward_of_its_own_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].forward = lambda input: input
    prunable(model)
    assert type(model[0]) is nn.Linear and type(model[1]) is DenseLinear


def test_parametrized_and_hooked_weights_are_left_alone_and_reported():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 3)),
        parametrizations.spectral_norm(nn.Conv2d(1, 1, 1)),
        nn.Linear(3, 3),
        nn.Linear(3, 3),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in use
        weight_norm(model[2])
    classes = [type(layer) for layer in model]
    prunable(model)
    assert [type(layer) for layer in model] == [*classes[:3], DenseLinear]
    assert why(model, "0").startswith("it is parametrized") and why(model, "1").startswith("it is parametrized")
    assert why(model, "2").startswith("its weight is no parameter but made by a hook")
    assert [type(layer) for layer in to_sparse(model)] == [*classes[:3], SparseLinear]


def test_lazy_layers_are_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.LazyLinear(4)))
    with pytest.raises(ValueError, match="model: its layer '1.0' is lazy.*run one forward first"):
        prunable(model)
    assert type(model[0]) is nn.Linear
    model(torch.zeros(1, 3))
    assert type(prunable(model)[1][0]) is DenseLinear


class WrappedTensor(torch.Tensor):
    """A weight that is more than its numbers."""


def test_a_layer_that_starts_at_zero_is_told_of():
    model = prunable(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)))
    nn.init.zeros_(model[1].weight)
    model[2].prune_by_pct(1)
    with pytest.warns(UserWarning, match="1 has no weight left to train: all that its mask keeps are zero") as warned:
        sparse = to_sparse(model)
    assert len(warned) == 1
    whys = [row.why for row in conversion_report(sparse).rows]
    assert whys[1:] == ["100.0% pruned, as all weights that its mask keeps are zero", "100.0% pruned"]


@pytest.mark.parametrize("lazy", [nn.LazyConv1d, nn.LazyConvTranspose2d])
@pytest.mark.parametrize("convert", [prunable, to_sparse])
def test_lazy_layers_of_other_kinds_are_not_asked(lazy, convert):
    model = convert(nn.Sequential(lazy(3, 1), nn.Linear(3, 3)))
    assert [row.name for row in conversion_report(model).rows] == ["1"]


def test_weights_that_are_no_plain_tensors_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(WrappedTensor))
    del model[1].weight
    model[1].register_buffer("weight", torch.zeros(3, 3))
    prunable(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, DenseLinear]
    assert why(model, "0") == "its weight is no plain tensor but a WrappedTensor"


@pytest.mark.parametrize(
    "exclude, left",
    [
        ("0", ["0"]),
        ("4", ["4.0", "4.1"]),
        (["4.1", "0"], ["0", "4.1"]),
        ("4.*", ["4.0", "4.1"]),
        ("*", ["0", "4.0", "4.1"]),
        (("?.1",), ["4.1"]),
    ],
)
def test_exclude_by_name_and_pattern(exclude, left):
    model = prunable(plain_model(), exclude)
    prunables = [name for name, _ in prunable_layers(model)]
    assert sorted([*prunables, *left]) == ["0", "4.0", "4.1"] and not set(prunables) & set(left)
    assert all(why(model, name).startswith("excluded by") for name in left)
    sparse = to_sparse(prunable(plain_model()), exclude=exclude)
    assert [name for name, m in sparse.named_modules() if type(m) in (DenseConv2d, DenseLinear)] == left


def test_a_shared_module_is_excluded_under_any_of_its_names():
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    model["same"] = model["one"]
    assert prunable_layers(prunable(model, exclude="same")) == [("other", model["other"])]


@pytest.mark.parametrize("function", [prunable, to_sparse])
@pytest.mark.parametrize(
    "exclude, error, words",
    [
        ("classifer", ValueError, "exclude: 'classifer' matches no module"),
        (["0", "5.*"], ValueError, r"exclude: '5\.\*' matches no module"),
        (5, TypeError, "exclude must be a name or a sequence of names and patterns, got 5"),
        ([nn.Linear], TypeError, "exclude must be"),
    ],
)
def test_bad_excludes_change_nothing(function, exclude, error, words):
    model = plain_model()
    with pytest.raises(error, match=words):
        function(model, exclude=exclude)
    assert type(model[0]) is nn.Conv2d


def test_min_sparsity_leaves_fuller_layers_masked():
    model = prunable(nn.Sequential(*(nn.Linear(10, 10) for _ in range(3))))
    model[1].prune_by_pct(0.5)
    model[2].prune_by_pct(0.9)
    sparse = to_sparse(model, min_sparsity=0.5)
    assert [type(layer) for layer in sparse] == [DenseLinear, SparseLinear, SparseLinear]
    assert why(sparse, "0") == "0.0% pruned, less than min_sparsity=0.5" and why(sparse, "2") == "90.0% pruned"
    assert type(to_sparse(model, 0.51)[1]) is DenseLinear and type(to_sparse(model, 1)[2]) is DenseLinear


@pytest.mark.parametrize("value, error", [(-0.1, ValueError), (1.5, ValueError), (float("nan"), ValueError)])
def test_bad_min_sparsity(value, error):
    with pytest.raises(error, match=r"min_sparsity must be in \[0, 1\], got"):
        to_sparse(plain_model(), min_sparsity=value)
    for other in ("0.5", None, True):
        with pytest.raises(TypeError, match="min_sparsity must be a real number, got"):
            to_sparse(plain_model(), min_sparsity=other)


def test_what_the_kernels_do_not_compute_stays_masked():
    model = prunable(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    model[0].to(torch.complex64)
    sparse = to_sparse(model)
    assert type(sparse[0]) is DenseLinear and why(sparse, "0") == "there are no sparse kernels for torch.complex64"


def test_the_report():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.LayerNorm(2))
    with pytest.raises(ValueError, match="model, a Sequential, is not what prunable"):
        conversion_report(model)
    prunable(model, exclude="2")
    lines = [
        "layer  was        now          why",
        "",
        "0      Embedding  Embedding    there is no prunable Embedding",
        "1      Linear     DenseLinear  masked",
        "2      Linear     Linear       excluded by '2'",
    ]
    lines[1] = "-" * max(map(len, lines))
    assert str(conversion_report(model)).splitlines() == lines
    model[1].prune_by_pct(0.75)
    sparse = to_sparse(model)
    assert [row.name for row in conversion_report(sparse).changed] == ["1"]
    assert [(row.name, row.why) for row in conversion_report(sparse).left][1] == ("2", "not made prunable")
    assert why(to_sparse(sparse), "1") == "sparse already" and why(to_dense(sparse), "1") == "masked"
    assert why(prunable(model), "1") == "prunable already"
    with pytest.raises(ValueError, match="is not what prunable"):
        conversion_report(copy.deepcopy(sparse))


def test_everything_else_is_kept():
    called = []
    model = plain_model()
    model[0].weight.requires_grad_(False)
    model[4][0].register_forward_hook(lambda *_: called.append("hook"))
    model[4].eval()
    model.double()
    names = [name for name, _ in model.named_modules()]
    for converted in (prunable(model), to_sparse(model), to_dense(to_sparse(model))):
        assert [name for name, _ in converted.named_modules()] == names
        assert converted.training and not converted[4].training and not converted[4][0].training
        weights = [p for p in converted.parameters() if p.dim() != 1 or p.numel() > 8]
        assert [p.requires_grad for p in weights] == [False, True, True]
        assert all(p.dtype is torch.float64 for p in converted.parameters())
        converted(torch.randn(2, 1, 6, 6, dtype=torch.float64))
    assert called == ["hook"] * 3


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = prunable(plain_model())
    assert model[0].mask.is_meta
    with pytest.raises(ValueError, match="meta device"):
        to_sparse(model)


class Spy:
    """A forward hook that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, layer, inputs, output):
        self.calls += 1


class Recorder(nn.Module):
    """Its layer's hook is a method of the model; its layer knows the model, and has a module and a list of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.calls = 0
        self.layer.register_forward_hook(self.record)
        self.layer.spy = Spy()
        self.layer.register_forward_hook(self.layer.spy)
        self.layer.owner = [self]
        self.layer.notes = ["a"]
        self.layer.add_module("part", nn.Linear(3, 3))

    def record(self, layer, inputs, output):
        self.calls += 1

    def forward(self, input):
        return self.layer(input)


@pytest.mark.parametrize("convert", [to_sparse, lambda model: to_dense(to_sparse(model))], ids=["sparse", "dense"])
def test_what_hangs_on_a_layer_is_copied_as_deepcopy_does(convert):
    model = prunable(Recorder())
    copied = convert(model)
    copied(torch.ones(1, 3))
    assert (model.calls, model.layer.spy.calls) == (0, 0) and (copied.calls, copied.layer.spy.calls) == (1, 1)
    layer = copied.layer
    assert layer.owner[0] is copied and layer.notes == ["a"] and layer.notes is not model.layer.notes
    assert type(layer.part) is type(layer) and layer.part is not model.layer.part
    assert not any(one is other for one in copied.parameters() for other in model.parameters())
    model(torch.ones(1, 3))
    assert (model.calls, model.layer.spy.calls, copied.calls) == (1, 1, 1)


def test_shared_buffers_stay_shared():
    model = prunable(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()))
    scale = torch.ones(3)
    for layer in model:
        layer.register_buffer("scale", scale)
    for copied in (to_sparse(model), to_dense(to_sparse(model))):
        assert copied[0].scale is copied[1].scale is copied[2].scale is not scale


def test_parameters_in_a_plain_list_are_those_of_the_copy():
    model = prunable(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    model.kept = {"all": list(model.parameters())}
    model.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for copied in (to_sparse(model), to_dense(to_sparse(model))):
        parameters = list(copied.parameters())
        for kept in (copied.kept["all"], copied.optimizer.param_groups[0]["params"]):
            assert len(kept) == 4 and all(one is other for one, other in zip(kept, parameters))
        before = [parameter.detach().clone() for parameter in parameters]
        copied(torch.ones(1, 3)).sum().backward()
        copied.optimizer.step()
        assert not any(torch.equal(old, new) for old, new in zip(before, parameters))


def test_sparse_subclasses_that_may_compute_otherwise_stay():
    class Doubled(SparseLinear):
        def forward(self, input):
            return 2 * super().forward(input)

    class Named(SparseLinear):
        """Only a name."""

    model = nn.Sequential(Doubled.from_dense(nn.Linear(3, 3)), Named.from_dense(nn.Linear(3, 3)), nn.Linear(3, 3))
    model[2] = SparseLinear.from_dense(model[2])
    forward = model[2].forward
    model[2].forward = lambda input: -forward(input)
    dense = to_dense(model)
    assert [type(layer) for layer in dense] == [Doubled, DenseLinear, SparseLinear]
    assert why(dense, "0") == why(dense, "2") == "a subclass of SparseLinear that may compute otherwise"
    input = torch.randn(2, 3)
    torch.testing.assert_close(dense[:2](input), model[:2](input))


def test_a_convolution_with_a_computation_of_its_own_stays():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    original = model[0]._conv_forward
    model[0]._conv_forward = lambda *arguments: 2 * original(*arguments)
    input = torch.randn(1, 1, 6, 6)
    expected = model(input)
    assert [type(layer) for layer in prunable(model)] == [nn.Conv2d, DenseConv2d]
    torch.testing.assert_close(to_sparse(model)(input), expected)


@pytest.mark.parametrize("pruned", range(11))
def test_min_sparsity_is_reached_exactly(pruned):
    """1 - 9/10 is less than 0.1 in floating point."""
    model = prunable(nn.Sequential(nn.Linear(10, 1)))
    model[0].prune_by_rank(pruned)
    assert type(to_sparse(model, min_sparsity=pruned / 10)[0]) is SparseLinear
    if pruned < 10:
        assert type(to_sparse(model, min_sparsity=pruned / 10 + 1e-9)[0]) is DenseLinear


def test_the_report_tells_what_the_copy_has():
    """A model may have a way of its own to copy itself, which keeps to no memo."""

    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo):
            copied = Stubborn(nn.Linear(3, 3))
            copied.load_state_dict(self.state_dict(), strict=False)
            return copied

    sparse = to_sparse(prunable(Stubborn(nn.Linear(3, 3))))
    (row,) = conversion_report(sparse).rows
    assert row.now == type(sparse[0]).__name__ == "Linear"


def test_layers_without_inputs_or_outputs():
    with pytest.warns(UserWarning, match="zero-element"):
        model = prunable(nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 0), nn.Linear(0, 3)))
    input = torch.ones(2, 0)
    for each in (to_sparse(model), to_dense(to_sparse(model))):
        torch.testing.assert_close(each(input), model(input))
        each(input).sum().backward()
        assert torch.equal(each[2].bias.grad, torch.full((3,), 2.0))


def test_modes_dtypes_and_frozen_parameters_are_each_layers_own():
    model = prunable(nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), nn.Linear(3, 3), nn.Linear(3, 3)))
    model[0].eval()
    model[1].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    for each in (to_sparse(model), to_dense(to_sparse(model))):
        assert [layer.training for layer in each] == [False, True, True] and each.training
        assert [next(layer.parameters()).dtype for layer in each] == [torch.float64, torch.float32, torch.float32]
        flags = [[parameter.requires_grad for parameter in layer.parameters()] for layer in each]
        assert flags == [[True, True], [False, True], [True, False]]
