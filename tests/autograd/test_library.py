"""The torch.library ops: opcheck, torch.compile without a graph break, torch.export."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from mpl_sparse import functional  # noqa: E402
from mpl_sparse.autograd import library  # noqa: E402
from mpl_sparse.nn import SparseConv2d, SparseLinear  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402


def positions(pattern):
    return torch.tensor(pattern.row_ptr), torch.tensor(pattern.col_idx), pattern.cols


@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_linear(bias):
    pattern = Pattern.from_mask(torch.rand(5, 7) < 0.5)
    input, values = torch.randn(3, 7, requires_grad=True), torch.randn(pattern.nnz, requires_grad=True)
    last = torch.randn(5, requires_grad=True) if bias else None
    torch.library.opcheck(library.linear, (input, values, last, *positions(pattern)))
    grad_output, fixed = torch.randn(3, 5), [input.detach(), values.detach()]
    torch.library.opcheck(library.linear_grad_input, (grad_output, fixed[1], *positions(pattern)))
    torch.library.opcheck(library.linear_grad_values, (fixed[0], grad_output, *positions(pattern)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck_conv2d(memory_format):
    pattern = Pattern.from_mask(torch.rand(4, 2, 3, 2) < 0.5)
    input = torch.randn(2, 4, 6, 5).contiguous(memory_format=memory_format).requires_grad_()
    values, bias = torch.randn(pattern.nnz, requires_grad=True), torch.randn(4, requires_grad=True)
    sizes = [3, 2], [2, 1], [1, 1, 0, 1], [1, 2], 2
    torch.library.opcheck(library.conv2d, (input, values, bias, *positions(pattern), *sizes))
    with torch.no_grad():
        grad_output = torch.randn_like(library.conv2d(input, values, None, *positions(pattern), *sizes))
    input, values = input.detach(), values.detach()
    shape = list(input.shape)
    torch.library.opcheck(library.conv2d_grad_input, (grad_output, values, *positions(pattern), shape, *sizes))
    torch.library.opcheck(library.conv2d_grad_values, (input, grad_output, *positions(pattern), *sizes))


def test_written_positions_are_read_again():
    pattern = Pattern.from_mask(torch.tensor([[True, False, False]]))
    row_ptr, col_idx, cols = positions(pattern)
    input, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1)
    assert library.linear(input, values, None, row_ptr, col_idx, cols).item() == 1
    col_idx.fill_(2)
    assert library.linear(input, values, None, row_ptr, col_idx, cols).item() == 3
    with pytest.raises(ValueError, match="values must have shape"):
        library.linear(input, torch.ones(2), None, row_ptr, col_idx, cols)


def test_positions_written_alike_keep_their_plans():
    """As DistributedDataParallel writes them, at every step."""
    pattern = Pattern.from_mask(torch.rand(5, 7) < 0.5)
    row_ptr, col_idx, cols = positions(pattern)
    library.remember_pattern(row_ptr, col_idx, pattern)
    for tensor in (row_ptr, col_idx):
        tensor.copy_(tensor.clone())
    assert library._pattern(row_ptr, col_idx, cols) is pattern


def test_double_backward_is_refused():
    pattern = Pattern.from_mask(torch.ones(2, 3, dtype=torch.bool))
    input = torch.randn(1, 3, requires_grad=True)
    output = library.linear(input, torch.randn(6, requires_grad=True), None, *positions(pattern))
    with pytest.raises(RuntimeError):
        (grad,) = torch.autograd.grad(output.square().sum(), input, create_graph=True)
        grad.sum().backward()


def small_model():
    model = torch.nn.Sequential(
        SparseConv2d(2, 4, 3, padding="same"),
        torch.nn.ReLU(),
        SparseConv2d(4, 4, 2, stride=2, groups=2, padding_mode="reflect", padding=1, bias=False),
        torch.nn.Flatten(),
        SparseLinear(64, 5),
    )
    for index in (0, 2, 4):
        model[index].prune_by_pct(0.5)
    return model


def step(model, function, input):
    model.zero_grad()
    output = function(input)
    output.square().sum().backward()
    return [output.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_compile():
    model = small_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (2, 3, 5):
        input = torch.randn(batch, 2, 6, 6)
        torch.testing.assert_close(step(model, compiled, input), step(model, model, input))
        input = input.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(step(model, compiled, input), step(model, model, input))
    model[0].prune_by_rank(3)
    model[4].set_mask(model[4].mask.roll(1, 1))  # as many weights, elsewhere
    torch.testing.assert_close(step(model, compiled, input), step(model, model, input))
    with torch.no_grad():
        torch.testing.assert_close(compiled(input), model(input))


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_functional():
    pattern = Pattern.from_mask(torch.rand(4, 2, 3, 3) < 0.5)
    matrix = Pattern.from_mask(torch.rand(4, 8) < 0.5)
    values, weights = torch.randn(pattern.nnz, requires_grad=True), torch.randn(matrix.nnz)

    def function(input):
        return functional.linear(functional.conv2d(input, values, pattern, padding=1), weights, matrix)

    input = torch.randn(2, 8, 8)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input[None][:, :2]), function(input[None][:, :2]))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(strict, tmp_path):
    model = small_model().eval()
    input = torch.randn(2, 2, 6, 6)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (input,), dynamic_shapes=({0: batch},), strict=strict)
    torch.export.save(program, tmp_path / "model.pt2")
    exported = torch.export.load(tmp_path / "model.pt2").module()
    for size in (2, 7):
        input = torch.randn(size, 2, 6, 6)
        torch.testing.assert_close(exported(input), model(input))


def test_importing_the_layers_does_not_import_the_compiler():
    code = "import mpl_sparse.nn, sys; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_functional_follows_another_pattern():
    eye = torch.eye(3, dtype=torch.bool)
    first, second = Pattern.from_mask(eye), Pattern.from_mask(eye.flip(0))
    compiled = torch.compile(functional.linear, fullgraph=True, backend="eager")
    input, values = torch.arange(3.0)[None], torch.ones(3)
    assert compiled(input, values, first).tolist() == [[0, 1, 2]]
    assert compiled(input, values, second).tolist() == [[2, 1, 0]]
