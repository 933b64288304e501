"""linear and conv2d on torch tensors: output and every gradient against dense torch in float64, on every backend."""

import contextlib

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import conv2d_cases, linear_cases

from mpl_sparse import functional
from mpl_sparse.pattern import Pattern

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("backend")


def gradients(operation, operands, grad_output):
    """The output and the gradient of each operand that is not None."""
    leaves = [None if operand is None else operand.detach().requires_grad_() for operand in operands]
    output = operation(*leaves)
    output.backward(grad_output)
    return [output.detach()] + [None if leaf is None else leaf.grad for leaf in leaves]


def check(operation, dense_operation, arrays, seed, memory_format=torch.contiguous_format):
    """Compares `operation` with `dense_operation` in float64, which on absolute values gives each sum's magnitude."""
    input, weight, bias = (None if a is None else torch.from_numpy(a) for a in (arrays[0], arrays[1], arrays[3]))
    mask = torch.from_numpy(arrays[2])
    input = input.contiguous(memory_format=memory_format)
    with torch.no_grad():
        shape = dense_operation(input, weight, bias).shape
    grad_output = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=input.dtype)
    grad_output = grad_output.contiguous(memory_format=memory_format)
    actual = gradients(operation, (input, weight[mask], bias), grad_output)
    doubles = [None if t is None else t.double() for t in (input, weight, bias)]
    expected = gradients(dense_operation, doubles, grad_output.double())
    magnitude = gradients(
        dense_operation, [None if t is None else t.abs() for t in doubles], grad_output.double().abs()
    )
    terms = max(weight[:1].numel() + 1, weight[:, :1].numel(), grad_output[:, :1].numel())
    for index, (got, want, size) in enumerate(zip(actual, expected, magnitude)):
        if got is not None:
            want, size = (want[mask], size[mask]) if index == 2 else (want, size)
            assert got.dtype == input.dtype
            oracle.assert_within(got.numpy(), want.numpy(), size.numpy(), terms)
    return actual


@given(linear_cases, st.integers(0, 1000))
def test_linear_and_its_gradients(case, seed):
    arrays = case.arrays()
    pattern = Pattern.from_mask(arrays[2])
    check(lambda x, v, b: functional.linear(x, v, pattern, b), F.linear, arrays, seed)


@given(conv2d_cases(), st.integers(0, 1000), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_conv2d_and_its_gradients(case, seed, memory_format):
    arrays = case.arrays()
    pattern = Pattern.from_mask(arrays[2])
    output, *_ = check(
        lambda x, v, b: functional.conv2d(x, v, pattern, b, **case.options),
        lambda x, w, b: F.conv2d(x, w, b, **case.options),
        arrays,
        seed,
        memory_format,
    )
    # some shapes are laid out alike in both formats: those count as contiguous
    input = torch.from_numpy(arrays[0]).contiguous(memory_format=memory_format)
    assert output.is_contiguous(memory_format=torch.contiguous_format if input.is_contiguous() else memory_format)


@given(conv2d_cases())
def test_numpy_and_torch_give_the_same_bits(case):
    input, weight, mask, bias = case.arrays()
    pattern = Pattern.from_mask(mask)
    tensors = [None if a is None else torch.from_numpy(a) for a in (input, weight[mask], bias)]
    output = functional.conv2d(tensors[0], tensors[1], pattern, tensors[2], **case.options)
    assert np.array_equal(output.numpy(), functional.conv2d(input, weight[mask], pattern, bias, **case.options))


def small_layer(shape=(4, 3, 3, 3), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    pattern = Pattern.from_mask(torch.rand(shape, generator=generator) < 0.5)
    return torch.randn(pattern.nnz, generator=generator, dtype=dtype), pattern


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:, 1:],
        lambda x: x[:1].expand(5, -1, -1, -1),
    ],
)
def test_conv2d_reads_any_strides(view):
    values, pattern = small_layer()
    input = view(torch.randn(2, 3, 7, 8))
    assert torch.equal(
        functional.conv2d(input, values, pattern), functional.conv2d(input.contiguous(), values, pattern)
    )


def test_strided_values_bias_and_output_gradients():
    values, pattern = small_layer()
    bias = torch.randn(4)
    input = torch.randn(2, 3, 7, 8)
    strided = values.repeat_interleave(2)[::2], bias.repeat_interleave(3)[::3]
    output = functional.conv2d(input, strided[0], pattern, strided[1])
    assert torch.equal(output, functional.conv2d(input, values, pattern, bias))
    grads = []
    for grad_output in (torch.ones(()).expand(output.shape), torch.ones(output.shape)):
        grads.append(gradients(lambda x, v, b: functional.conv2d(x, v, pattern, b), (input, values, bias), grad_output))
    assert all(torch.equal(one, other) for one, other in zip(*grads))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (0, 3), (2, 0, 3)])
def test_linear_of_any_rank(shape):
    values, pattern = small_layer((5, 7))
    input = torch.randn(*shape, 7)
    output, grad, _ = gradients(lambda x, v: functional.linear(x, v, pattern), (input, values), torch.ones(*shape, 5))
    assert torch.equal(output.reshape(-1, 5), functional.linear(input.reshape(-1, 7), values, pattern))
    assert grad.shape == input.shape


def test_unbatched_conv2d():
    values, pattern = small_layer()
    input = torch.randn(3, 6, 5, requires_grad=True)
    output = functional.conv2d(input, values, pattern, padding=1)
    assert torch.equal(output, functional.conv2d(input[None], values, pattern, padding=1)[0])
    output.sum().backward()
    assert input.grad.shape == input.shape


@pytest.mark.parametrize("stored", [0.0, -0.0])
def test_nan_rules_hold_for_gradients_too(stored):
    """The gradient to the input skips pruned weights; a stored zero passes a NaN on."""
    pattern = Pattern.from_mask(torch.tensor([[True, False], [False, True]]))
    values = torch.tensor([stored, 1.0])
    input = torch.ones(1, 2, requires_grad=True)
    functional.linear(input, values, pattern).backward(torch.tensor([[torch.nan, 1.0]]))
    assert input.grad[0, 0].isnan() and input.grad[0, 1] == 1
    assert functional.linear(torch.tensor([[torch.inf, 1.0]]), values, pattern)[0].isnan().tolist() == [True, False]


def test_bitwise_equal_for_any_number_of_threads():
    pattern = Pattern.from_mask(torch.rand(48, 32, 3, 3) < 0.2)
    matrix = Pattern.from_mask(torch.rand(300, 400) < 0.2)
    operands = torch.randn(3, 32, 20, 21), torch.randn(pattern.nnz), torch.randn(48)
    rows = torch.randn(33, 400), torch.randn(matrix.nnz), torch.randn(300)
    results = []
    for count in (1, 2, 3, 4):
        with threads(count):
            conv = gradients(
                lambda x, v, b: functional.conv2d(x, v, pattern, b, padding=1), operands, torch.ones(3, 48, 20, 21)
            )
            linear = gradients(lambda x, v, b: functional.linear(x, v, matrix, b), rows, torch.ones(33, 300))
        results.append([tensor.numpy().tobytes() for tensor in (*conv[:3], *linear[:3])])
    assert results.count(results[0]) == len(results)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def test_autocast_computes_in_the_dtype_of_the_values():
    values, pattern = small_layer((5, 7))
    input = torch.randn(2, 7).bfloat16()
    with torch.autocast("cpu"):
        output = functional.linear(input, values.requires_grad_(), pattern)
    assert output.dtype == torch.float32 and torch.equal(output, functional.linear(input.float(), values, pattern))
    output.sum().backward()


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (
            {"input": torch.ones(1, 3, 6, 5).half()},
            TypeError,
            "input must be torch.float32 as values, got torch.float16",
        ),
        ({"input": torch.ones(1, 3, 6, 5).double()}, TypeError, "input must be torch.float32 as values"),
        (
            {"values": torch.ones(3).cfloat()},
            TypeError,
            "values must be torch.float32, torch.float64, torch.float16 or torch.bfloat16, got torch.complex64",
        ),
        ({"values": torch.ones(3).half()}, TypeError, "input must be torch.float16 as values, got torch.float32"),
        ({"values": np.ones(3, np.float32)}, TypeError, "values must be a torch tensor, got ndarray"),
        ({"values": None}, TypeError, "values must be a torch tensor, got NoneType"),
        ({"bias": torch.ones(4).double()}, TypeError, "bias must be torch.float32 as values, got torch.float64"),
        ({"bias": 1.0}, TypeError, "bias must be a torch tensor, got float"),
        ({"input": torch.ones(1, 3, 6, 5, device="meta")}, ValueError, "input must be a dense CPU tensor.* on meta"),
        ({"values": torch.ones(3, device="meta")}, ValueError, "values must be a dense CPU tensor"),
        ({"bias": torch.ones(4).to_sparse()}, ValueError, "bias must be a dense CPU tensor, got torch.sparse_coo"),
        (
            {"input": torch.ones(1, 4, 6, 5)},
            ValueError,
            r"input must be \(batch, 3, height, width\).*got shape \(1, 4, 6, 5\)",
        ),
        ({"input": torch.ones(3)}, ValueError, "input must be"),
        ({"values": torch.ones(3)}, ValueError, r"values must have shape .* got \(3,\)"),
        ({"bias": torch.ones(4, 1)}, ValueError, r"bias must have shape \(4,\), got \(4, 1\)"),
        ({"pattern": None}, TypeError, "pattern must be a mpl_sparse.Pattern"),
    ],
)
@pytest.mark.parametrize("needs_grad", [False, True])
def test_refusals(changes, error, words, needs_grad):
    """The same words with and without autograd, and no second traceback above them."""
    values, pattern = small_layer()
    operands = {"input": torch.ones(1, 3, 6, 5), "values": values.requires_grad_(needs_grad), "pattern": pattern}
    with pytest.raises(error, match=words) as caught:
        functional.conv2d(**{**operands, **changes})
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_pending_negation_is_seen():
    """The imaginary part of a conjugate is memory that torch negates when it reads it."""
    values, pattern = small_layer((5, 7))
    bias, input = torch.randn(5), torch.randn(3, 7)

    def pending(tensor):
        pending = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
        assert pending.is_neg() and torch.equal(pending, tensor)
        return pending

    for rows in (input, input[:1]):
        operands = [(rows, values, bias), (pending(rows), pending(values), pending(bias))]
        results = []
        for x, v, b in operands:
            x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
            output = functional.linear(x, v, pattern, b)
            grad = output.detach() if x is operands[0][0] else pending(output.detach())
            results.append((output.detach(), *torch.autograd.grad(output, (x, v), grad)))
        for plain, negated in zip(*results):
            assert torch.equal(plain, negated)


def test_forward_mode_is_refused_not_ignored():
    values, pattern = small_layer((5, 7))
    fw = torch.autograd.forward_ad
    with fw.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        functional.linear(fw.make_dual(torch.ones(1, 7), torch.ones(1, 7)), values, pattern)
