"""The four layers: outputs and gradients against plain torch, constructors, printed forms, copies."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from samples import conv2d_cases, linear_cases  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear, pattern_of  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

CONVS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "stride": (2, 1)},
    {"groups": 2, "bias": False},
    *({"padding": (2, 1), "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
    {"padding": "same", "kernel_size": (2, 3), "padding_mode": "circular"},
    {"dtype": torch.float64},
]


def pair_of_convs(options):
    """A masked convolution, half pruned, and its sparse form."""
    dense = DenseConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})
    dense.random_prune_by_pct(0.5)
    return dense, dense.to_sparse()


def pair_of_linears(bias=True, dtype=None):
    dense = DenseLinear(12, 7, bias, dtype=dtype)
    dense.random_prune_by_pct(0.5)
    return dense, dense.to_sparse()


def assert_same_step(dense, sparse, input):
    inputs = input.clone().requires_grad_(), input.clone().requires_grad_()
    outputs = dense(inputs[0]), sparse(inputs[1])
    torch.testing.assert_close(*outputs)
    outputs[0].square().sum().backward()
    outputs[1].square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(dense.weight.grad[dense.mask], sparse.values.grad)
    assert not dense.weight.grad[~dense.mask].any()
    if dense.bias is not None:
        torch.testing.assert_close(dense.bias.grad, sparse.bias.grad)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("options", CONVS)
def test_sparse_conv2d_equals_masked(options):
    dense, sparse = pair_of_convs(options)
    input = torch.randn(2, 4, 9, 8, dtype=dense.weight.dtype)
    for each in (input, input[0], input.contiguous(memory_format=torch.channels_last), input[:0]):
        assert_same_step(dense, sparse, each)
        dense.zero_grad()
        sparse.zero_grad()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 5)])
def test_sparse_linear_equals_masked(shape, dtype):
    for bias in (True, False):
        dense, sparse = pair_of_linears(bias, dtype)
        assert_same_step(dense, sparse, torch.randn(*shape, 12, dtype=dtype))


@given(conv2d_cases())
def test_masked_conv2d_equals_plain(case):
    input, weight, mask, bias = case.arrays()
    in_channels, out_channels = (count * case.groups for count in case.channels)
    layer = DenseConv2d(in_channels, out_channels, case.kernel, bias=case.bias, **case.options).to(
        torch.from_numpy(input).dtype
    )
    layer.set_mask(torch.from_numpy(mask))
    expected = nn.functional.conv2d(
        torch.from_numpy(input), torch.where(layer.mask, layer.weight, 0), layer.bias, **case.options
    )
    assert torch.equal(layer(torch.from_numpy(input)), expected)
    assert layer.num_weight == mask.sum() and layer.density == pytest.approx(mask.mean())


@given(linear_cases)
def test_round_trip_keeps_every_weight(case):
    input, weight, mask, bias = case.arrays()
    dense = DenseLinear(case.cols, case.rows, case.bias)
    dense.set_mask(torch.from_numpy(mask))
    with torch.no_grad():
        dense.weight.masked_fill_(dense.weight == 0, 1)
    again = dense.to_sparse().to_dense()
    assert torch.equal(again.mask, dense.mask) and torch.equal(again.masked_weight, dense.masked_weight)


def test_to_sparse_drops_masked_and_exactly_zero_weights():
    dense = DenseLinear(3, 1)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[0.0, torch.nan, 2.0]]))
    dense.set_mask(torch.tensor([[True, True, False]]))
    sparse = dense.to_sparse()
    assert sparse.mask.tolist() == [[False, True, False]] and sparse.values.isnan().all()
    kept = SparseLinear.from_dense(dense, Pattern.from_mask(torch.ones(1, 3, dtype=torch.bool)))
    assert kept.values[0] == 0 and kept.values[1].isnan() and kept.values[2] == 0


def test_a_stored_zero_stays_stored():
    sparse = SparseLinear(4, 2)
    with torch.no_grad():
        sparse.values[3] = 0
    assert sparse.num_weight == 8 and copy.deepcopy(sparse).num_weight == 8
    assert SparseLinear(4, 2).load_state_dict(sparse.state_dict()) and sparse.to_dense().num_weight == 8


def test_new_layers_start_as_torch_starts_them():
    for plain, sparse, arguments in ((nn.Linear, SparseLinear, (5, 4)), (nn.Conv2d, SparseConv2d, (2, 4, 3))):
        torch.manual_seed(0)
        expected = plain(*arguments)
        torch.manual_seed(0)
        layer = sparse(*arguments)
        assert torch.equal(layer.values, expected.weight.flatten()) and torch.equal(layer.bias, expected.bias)
        pattern = Pattern.from_mask(torch.rand(expected.weight.shape) < 0.3)
        torch.manual_seed(0)
        layer = sparse(*arguments, bias=False, dtype=torch.float64, pattern=pattern)
        assert layer.pattern is pattern and layer.num_weight == pattern.nnz and layer.bias is None
        assert layer.values.dtype == torch.float64


@pytest.mark.parametrize("sparse, plain", [(SparseLinear, nn.Linear(5, 4)), (SparseConv2d, nn.Conv2d(2, 4, 3))])
def test_from_dense_keeps_settings(sparse, plain):
    plain = copy.deepcopy(plain).double().eval()
    plain.weight.requires_grad_(False)
    calls = []
    handle = plain.register_forward_hook(lambda *_: calls.append(1))
    layer = sparse.from_dense(plain)
    assert not layer.training and not layer.values.requires_grad and layer.bias.requires_grad
    assert layer.values.dtype == torch.float64 and layer.bias is not plain.bias
    layer(torch.randn(3, *((5,) if sparse is SparseLinear else (2, 6, 6)), dtype=torch.float64))
    assert calls == [1]
    handle.remove()  # the two layers have their own tables of hooks
    assert len(layer._forward_hooks) == 1
    back = layer.to_dense()
    assert not back.training and not back.weight.requires_grad and len(back._forward_hooks) == 1


@pytest.mark.parametrize(
    "convert, plain",
    [(DenseLinear.from_linear, nn.Linear(5, 4)), (DenseConv2d.from_conv2d, nn.Conv2d(2, 4, 3, padding_mode="reflect"))],
)
def test_from_plain_reuses_the_parameters(convert, plain):
    plain.eval()
    handle = plain.register_forward_pre_hook(lambda *_: None)
    layer = convert(plain)
    assert layer.weight is plain.weight and layer.bias is plain.bias and not layer.training
    assert layer.mask.all() and "mask" not in dict(plain.named_buffers())
    assert layer.extra_repr() == plain.extra_repr()
    handle.remove()
    assert not layer._forward_pre_hooks
    with pytest.raises(TypeError, match="must be an nn"):
        convert(nn.ReLU())


def test_printed_forms():
    assert str(SparseConv2d(1, 32, 5, padding=2)) == (
        "SparseConv2d(1, 32, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=True)"
    )
    assert str(SparseConv2d(2, 4, 3, padding="same", dilation=2, groups=2, bias=False, padding_mode="circular")) == (
        "SparseConv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), groups=2, "
        "padding_mode=circular, bias=False)"
    )
    assert str(DenseConv2d(1, 32, 5)) == "DenseConv2d(1, 32, kernel_size=(5, 5), stride=(1, 1))"
    assert str(SparseLinear(3, 2, bias=False)) == "SparseLinear(in_features=3, out_features=2, bias=False)"
    assert str(DenseLinear(3, 2)) == "DenseLinear(in_features=3, out_features=2, bias=True)"


@pytest.mark.parametrize("make", [lambda: pair_of_convs({"groups": 2}), pair_of_linears])
def test_copies_and_pickles(make):
    for layer in make():
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other.pattern == layer.pattern and str(other) == str(layer)
            assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), layer.state_dict().values()))
            if hasattr(layer, "values"):
                assert pattern_of(other.values) is other.pattern
            other.prune_by_pct(0.5)
            assert other.num_weight < layer.num_weight
    sparse = make()[1]
    assert copy.deepcopy(sparse).pattern is sparse.pattern


def test_weight_is_a_sparse_view():
    dense, sparse = pair_of_convs({})
    weight = sparse.weight
    assert weight.is_sparse and weight.is_coalesced() and weight.shape == dense.weight.shape
    assert torch.equal(weight.to_dense(), dense.masked_weight)
    assert torch.equal(weight.coalesce().values(), sparse.values)
    weight.to_dense().square().sum().backward()
    torch.testing.assert_close(sparse.values.grad, 2 * sparse.values.detach())


@pytest.mark.parametrize("make", [lambda: pair_of_convs({}), pair_of_linears])
def test_refused_dtypes_and_devices(make):
    dense, sparse = make()
    shape = (1, 4, 5, 5) if isinstance(sparse, SparseConv2d) else (1, 12)
    with pytest.raises(ValueError, match="input must be a dense CPU tensor.* on meta"):
        sparse(torch.ones(shape, device="meta"))
    with pytest.raises(TypeError, match="input must be torch.float32 as values, got torch.float64"):
        sparse(torch.ones(shape).double())
    with pytest.raises(ValueError, match="input must"):
        sparse(torch.ones(shape)[..., 0])
    assert pattern_of(sparse.double().values) is sparse.pattern
    sparse(torch.ones(shape).double())
    with pytest.raises(TypeError, match="input must be torch.float16 as values, got torch.float32"):
        sparse.half()(torch.ones(shape))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: SparseLinear(3, 2, pattern="all"), TypeError, "pattern must be a mpl_sparse.Pattern, got str"),
        (lambda: SparseLinear(3, 2, pattern=eye(3)), ValueError, r"pattern must have shape \(2, 3\), got \(3, 3\)"),
        (lambda: SparseConv2d(3, 2, 1, pattern=eye(3)), ValueError, "pattern must have shape"),
        (lambda: SparseConv2d(3, 2, 1, groups=2), ValueError, "in_channels must be divisible by groups"),
        (lambda: SparseConv2d(3, 2, 3, stride=2, padding="same"), ValueError, "same"),
        (lambda: SparseConv2d.from_dense(nn.Linear(2, 2)), TypeError, "layer must be an nn.Conv2d, got Linear"),
        (lambda: SparseLinear.from_dense(nn.Conv2d(2, 2, 1)), TypeError, "layer must be an nn.Linear, got Conv2d"),
        (lambda: setattr(SparseLinear(3, 3), "pattern", None), TypeError, "pattern must be"),
    ],
)
def test_refused_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def eye(size):
    return Pattern.from_mask(torch.eye(size, dtype=torch.bool))


@pytest.mark.parametrize("make", [lambda: pair_of_convs({}), pair_of_linears])
def test_every_way_of_changing_the_weights_is_seen(make):
    """Nothing that a call needs is kept from the call before."""
    _, sparse = make()
    input = torch.randn((1, 4, 5, 5) if isinstance(sparse, SparseConv2d) else (1, 12))

    class Doubled(nn.Module):
        def forward(self, tensor):
            return 2 * tensor

    def step():
        sparse(input).sum().backward()
        torch.optim.SGD(sparse.parameters(), lr=0.1).step()

    def new_memory():
        sparse.values.data = sparse.values.detach() + 1

    changes = [
        lambda: sparse.values.data.mul_(3),
        new_memory,
        step,
        lambda: sparse.prune_by_pct(0.3),
        lambda: setattr(sparse, "values", nn.Parameter(torch.randn(sparse.num_weight))),
        lambda: sparse.load_state_dict({name: tensor.clone() for name, tensor in make()[1].state_dict().items()}),
        lambda: nn.utils.parametrize.register_parametrization(sparse, "bias", Doubled()),
    ]
    for change in changes:
        with torch.no_grad():
            before = sparse(input)
        change()
        with torch.no_grad():
            output = sparse(input)
            assert not torch.equal(output, before)
            if isinstance(sparse, SparseConv2d):
                dense, of = nn.functional.conv2d, (sparse.stride, sparse.padding, sparse.dilation, sparse.groups)
            else:
                dense, of = nn.functional.linear, ()
            torch.testing.assert_close(output, dense(input, sparse.weight.to_dense(), sparse.bias, *of))


@pytest.mark.parametrize("make", [lambda: pair_of_convs({}), pair_of_linears])
def test_overwritten_positions_are_told(make):
    _, sparse = make()
    input = torch.randn((1, 4, 5, 5) if isinstance(sparse, SparseConv2d) else (1, 12))
    expected = sparse(input)
    for buffer in (sparse.row_ptr, sparse.col_idx):
        buffer.copy_(buffer.clone())
    assert torch.equal(sparse(input), expected)
    sparse.row_ptr.copy_(sparse.row_ptr.clone())
    sparse.col_idx.copy_(sparse.col_idx.flip(0))
    for use in (lambda: sparse(input), sparse.train, sparse.eval):
        with pytest.raises(RuntimeError, match="row_ptr and col_idx were overwritten"):
            use()
    sparse.pattern = sparse.pattern
    assert torch.equal(sparse.eval()(input), expected)
