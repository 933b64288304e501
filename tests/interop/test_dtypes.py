"""float64, float16 and bfloat16, autocast, the default dtype."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from twins import assert_alike, gradients, images, train, twins  # noqa: E402

from mpl_sparse import functional  # noqa: E402
from mpl_sparse.nn import SparseConv2d, SparseLinear, fuse, prunable_layers  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

HALVES = [torch.float16, torch.bfloat16]
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)


def half_layers(dtype):
    """Layers of that dtype, and inputs for them."""
    return [
        (SparseConv2d(4, 6, 3, padding=1), torch.randn(2, 4, 7, 5)),
        (
            SparseConv2d(4, 6, (2, 3), stride=2, groups=2, padding=1, padding_mode="circular", bias=False),
            torch.randn(4, 8, 9),
        ),
        (SparseLinear(12, 5), torch.randn(3, 2, 12)),
        (SparseLinear(12, 5, bias=False), torch.randn(12)),
    ]


def test_to_double():
    masked, sparse = (model.double() for model in twins())
    patterns = [layer.pattern for _, layer in prunable_layers(sparse)]
    input = images().double()
    for model in (masked, sparse):
        output = model(input)
        assert output.dtype == torch.float64
        output.square().sum().backward()
    assert_alike(masked, sparse)
    assert [layer.pattern for _, layer in prunable_layers(sparse)] == patterns
    assert torch.equal(sparse.float().eval()(images()), sparse(images()))


@pytest.mark.usefixtures("backend")
@halves
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype):
    """Bit for bit what the float32 layer of the same weights gives, rounded; and so are the gradients."""
    for layer, input in half_layers(dtype):
        layer.random_prune_by_pct(0.6)
        layer.to(dtype)
        wide = copy.deepcopy(layer).float()
        inputs = input.to(dtype).requires_grad_(), input.to(dtype).float().requires_grad_()
        output, expected = layer(inputs[0]), wide(inputs[1])
        assert output.dtype == dtype and torch.equal(output, expected.to(dtype))
        grad_output = torch.randn(output.shape).to(dtype)
        output.backward(grad_output)
        expected.backward(grad_output.float())
        assert inputs[0].grad.dtype == layer.values.grad.dtype == dtype
        if getattr(layer, "padding_mode", "zeros") == "zeros":  # torch's padding adds up its gradient in 16 bits
            assert torch.equal(inputs[0].grad, inputs[1].grad.to(dtype))
        for parameter, other in zip(layer.parameters(), wide.parameters()):
            assert torch.equal(parameter.grad, other.grad.to(dtype))
        with torch.no_grad():
            assert torch.equal(layer(inputs[0]), output)


@halves
def test_16_bits_agree_with_torchs_layers(dtype):
    for layer, input in half_layers(dtype):
        layer.random_prune_by_pct(0.6)
        dense = layer.to(dtype).to_dense()
        torch.testing.assert_close(layer(input.to(dtype)), dense(input.to(dtype)))


@halves
def test_a_model_of_16_bits_trains_like_its_masked_form(dtype):
    masked, sparse = (model.to(dtype) for model in twins())
    for model in (masked, sparse):
        model(images().to(dtype)).float().square().mean().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(grad.dtype == dtype for grad in gradients(sparse).values())
    assert_alike(masked, sparse, rtol=0.05, atol=0.02)
    sparse[7].prune_by_pct(0.5)
    sparse[0].prune_by_threshold(0.05)
    fused = fuse(sparse.eval())
    torch.testing.assert_close(fused(images().to(dtype)), sparse(images().to(dtype)), rtol=0.05, atol=0.02)


@halves
def test_other_dtypes_than_the_values_are_refused(dtype):
    layer = SparseLinear(3, 2).to(dtype)
    with pytest.raises(TypeError, match=f"input must be {dtype} as values, got torch.float32"):
        layer(torch.ones(1, 3))
    layer.bias.data = layer.bias.data.float()
    with pytest.raises(TypeError, match=f"bias must be {dtype} as values, got torch.float32"):
        layer(torch.ones(1, 3, dtype=dtype))
    with pytest.raises(TypeError, match=f"input must be torch.float32 as values, got {dtype}"):
        SparseLinear(3, 2)(torch.ones(1, 3, dtype=dtype))


@halves
def test_functional_in_16_bits(dtype):
    pattern = Pattern.from_mask(torch.rand(4, 3, 3, 3) < 0.4)
    values, input = torch.randn(pattern.nnz).to(dtype).requires_grad_(), torch.randn(2, 3, 6, 6).to(dtype)
    expected = functional.conv2d(input.float(), values.float(), pattern, padding=1)
    assert torch.equal(functional.conv2d(input, values, pattern, padding=1), expected.to(dtype))
    matrix = Pattern.from_mask(torch.rand(4, 6) < 0.4)
    values, input = torch.randn(matrix.nnz).to(dtype), torch.randn(6).to(dtype)
    expected = functional.linear(input.float(), values.float(), matrix)
    assert torch.equal(functional.linear(input, values, matrix), expected.to(dtype))


@pytest.mark.parametrize("values", [torch.float32, *HALVES], ids=str)
@halves
def test_autocast_keeps_the_dtype_of_the_values(dtype, values):
    _, sparse = twins()
    sparse.to(values)
    seen = []
    for _, layer in prunable_layers(sparse):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=dtype):
        output = sparse(images())  # float32, and 16 bits of one kind or the other between the layers
        sparse(images().to(dtype))
    assert seen == [values] * 6
    output.float().sum().backward()
    assert sparse[7].values.grad.dtype == values


def test_autocast_leaves_double_alone():
    layer = SparseLinear(3, 2).bfloat16()
    with (
        torch.autocast("cpu"),
        pytest.raises(TypeError, match="input must be torch.bfloat16 as values, got torch.float64"),
    ):
        layer(torch.ones(1, 3).double())
    with (
        torch.autocast("cpu"),
        pytest.raises(TypeError, match="input must be torch.float32 as values, got torch.int16"),
    ):
        SparseLinear(3, 2)(torch.ones(1, 3).short())


def test_autocast_is_close_to_the_masked_model():
    masked, sparse = twins()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for model in (masked, sparse):
            loss = nn.functional.cross_entropy(model(images()), torch.arange(6))
            loss.backward()
    assert_alike(masked, sparse, rtol=0.1, atol=0.03)


def test_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        masked, sparse = twins()
        assert sparse[0].values.dtype == torch.float64
        assert sparse(torch.randn(2, 3, 8, 8)).dtype == torch.float64
        sparse[7].random_prune_by_pct(0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    train(sparse.float())
