"""The autograd Functions: gradcheck, only what is asked for, once differentiable, pruning between the passes."""

import pytest

torch = pytest.importorskip("torch")

from mpl_sparse.autograd import AddmmFunction, SparseConv2dFunction, kernels  # noqa: E402
from mpl_sparse.geometry import conv2d_geometry  # noqa: E402
from mpl_sparse.nn import SparseLinear  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

pytestmark = pytest.mark.usefixtures("backend")


def linear_call(dtype=torch.float64):
    pattern = Pattern.from_mask(torch.rand(4, 6) < 0.5)
    operands = [torch.randn(size, dtype=dtype, requires_grad=True) for size in ((3, 6), (pattern.nnz,), (4,))]
    return (lambda *tensors: AddmmFunction.apply(*tensors, pattern)), operands


def conv2d_call(dtype=torch.float64):
    pattern = Pattern.from_mask(torch.rand(4, 2, 3, 2) < 0.5)
    geometry = conv2d_geometry((2, 4, 6, 5), 4, (3, 2), (2, 1), (1, 1, 0, 1), (1, 2), 2)
    operands = [torch.randn(size, dtype=dtype, requires_grad=True) for size in ((2, 4, 6, 5), (pattern.nnz,), (4,))]
    return (lambda *tensors: SparseConv2dFunction.apply(*tensors, pattern, geometry)), operands


calls = pytest.mark.parametrize("call", [linear_call, conv2d_call])


@calls
def test_gradcheck(call):
    function, operands = call()
    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradcheck(lambda input, values: function(input, values, None), operands[:2])


@calls
@pytest.mark.parametrize("asked", range(1, 8))
def test_only_the_gradients_that_are_asked_for(call, asked, monkeypatch):
    function, operands = call()
    ran = set()
    for name in ("linear_grad_input", "linear_grad_values", "conv2d_grad_input", "conv2d_grad_values"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, name=name, kernel=kernel: ran.add(name.rpartition("_")[2]) or kernel(*args)
        )
    function(*operands).sum().backward()
    expected = [operand.grad for operand in operands]
    ran.clear()
    wanted = [bool(asked & bit) for bit in (1, 2, 4)]
    leaves = [operand.detach().requires_grad_(want) for operand, want in zip(operands, wanted)]
    function(*leaves).sum().backward()
    assert ran == {name for name, want in zip(("input", "values"), wanted) if want}
    for leaf, want, grad in zip(leaves, wanted, expected):
        assert torch.equal(leaf.grad, grad) if want else leaf.grad is None


@calls
def test_keeps_only_what_backward_needs(call):
    function, operands = call()
    for input_needs, values_needs in ((True, False), (False, True)):
        leaves = operands[0].detach().requires_grad_(input_needs), operands[1].detach().requires_grad_(values_needs)
        assert kept_by(function, *leaves) == [operands[1 if input_needs else 0].shape]


def kept_by(function, input, values):
    """The shapes of the tensors that the graph keeps for backward."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda kept: kept):
        function(input, values, None)
    return kept


@calls
def test_double_backward_is_refused(call):
    function, operands = call()
    (grad,) = torch.autograd.grad(function(*operands).square().sum(), operands[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("input_needs_grad", [False, True])
@pytest.mark.parametrize(
    "change",
    [lambda layer: layer.prune_by_pct(0.5), lambda layer: layer.set_mask(layer.mask.roll(1, 1))],
    ids=["pruned", "moved"],
)
def test_a_pattern_changed_between_forward_and_backward_is_refused(change, input_needs_grad):
    layer = SparseLinear(6, 5)
    layer.prune_by_pct(0.5)
    output = layer(torch.randn(2, 6, requires_grad=input_needs_grad))
    change(layer)
    with pytest.raises(RuntimeError, match="between forward and backward"):
        output.sum().backward()
    layer(torch.randn(2, 6)).sum().backward()


def test_an_optimizer_step_between_forward_and_backward_follows_torch():
    layer = SparseLinear(6, 5)
    output = layer(torch.randn(2, 6))
    with torch.no_grad():
        layer.values.mul_(2)
    output.sum().backward()  # the gradient of the values does not need the values
    output = layer(torch.randn(2, 6, requires_grad=True))
    with torch.no_grad():
        layer.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
