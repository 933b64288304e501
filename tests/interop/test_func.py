"""torch.func: functional_call, grad, vmap, jacrev, against the masked model; what has no derivative says so."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.func import functional_call, grad, grad_and_value, jacrev, jvp, vjp, vmap  # noqa: E402
from twins import images, twins  # noqa: E402

from mpl_sparse import functional  # noqa: E402
from mpl_sparse.nn import fuse  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402


@pytest.fixture
def pair():
    return tuple(model.eval() for model in twins())


def parameters(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def loss_of(model):
    def loss(parameters, input, target):
        return nn.functional.cross_entropy(functional_call(model, parameters, (input,)), target)

    return loss


def assert_same_gradients(masked, gradients, expected):
    """The sparse model's gradients against the masked one's; both may have leading dimensions."""
    for name, tensor in expected.items():
        layer = masked.get_submodule(name.rpartition(".")[0])
        if name.endswith("weight") and hasattr(layer, "mask"):
            name, tensor = name.replace("weight", "values"), tensor[..., layer.mask]
        torch.testing.assert_close(gradients[name], tensor)


def test_functional_call_leaves_the_model_alone(pair):
    masked, sparse = pair
    doubled = {name: 2 * tensor for name, tensor in parameters(sparse).items()}
    before = sparse(images())
    output = functional_call(sparse, doubled, (images(),))
    other = copy.deepcopy(sparse)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(doubled[name])
    assert torch.equal(output, other(images())) and torch.equal(sparse(images()), before)
    assert not torch.equal(output, before)


def test_grad(pair):
    gradients = []
    for model in pair:
        found, value = grad_and_value(loss_of(model))(parameters(model), images(), torch.arange(6))
        model.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.arange(6)).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)
        gradients.append(found)
    assert_same_gradients(pair[0], gradients[1], gradients[0])


def test_grad_of_some_parameters(pair):
    _, sparse = pair

    def loss(bias):
        return functional_call(sparse, {"7.bias": bias}, (images(),)).square().sum()

    assert grad(loss)(sparse[7].bias.detach()).shape == (10,)


@pytest.mark.filterwarnings("error")
def test_gradients_of_each_sample(pair):
    each = [
        vmap(grad(loss_of(model)), (None, 0, 0))(parameters(model), images()[:, None], torch.arange(6)[:, None])
        for model in pair
    ]
    assert each[1]["7.values"].shape == (6, pair[1][7].num_weight)
    assert_same_gradients(pair[0], each[1], each[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("in_dim", [0, 1, 3])
def test_vmap_over_inputs(pair, in_dim):
    inputs = torch.stack([images(2, seed=seed) for seed in range(3)], in_dim)
    expected = torch.stack([pair[1](images(2, seed=seed)) for seed in range(3)])
    torch.testing.assert_close(vmap(pair[1], in_dims=in_dim)(inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(vmap(pair[1], in_dims=in_dim, chunk_size=2)(inputs), expected)


def test_vmap_of_vmap_and_single_images(pair):
    layer = pair[1][0]
    input = torch.randn(2, 3, 3, 8, 8)
    torch.testing.assert_close(vmap(vmap(layer))(input), layer(input.flatten(0, 1)).unflatten(0, (2, 3)))
    torch.testing.assert_close(vmap(pair[1][7])(torch.ones(2, 256)), pair[1][7](torch.ones(2, 256)))


def test_vmap_over_an_ensemble(pair):
    _, sparse = pair
    stacked = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in parameters(sparse).items()}
    input = images()
    outputs = vmap(lambda each: functional_call(sparse, each, (input,)))(stacked)
    for index in range(2):
        single = {name: tensor[index] for name, tensor in stacked.items()}
        torch.testing.assert_close(outputs[index], functional_call(sparse, single, (input,)))


def test_jacrev_and_vjp(pair):
    masked, sparse = pair
    torch.testing.assert_close(jacrev(sparse)(images(2)), jacrev(masked)(images(2)))
    outputs, pull = vjp(sparse, images(2))
    expected, other = vjp(masked, images(2))
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(pull(torch.ones(2, 10)), other(torch.ones(2, 10)))


def test_fused_and_16_bits(pair):
    fused = fuse(pair[1])
    torch.testing.assert_close(vmap(fused)(images()[:, None])[:, 0], fused(images()))
    half = copy.deepcopy(pair[1]).bfloat16()
    input = images().bfloat16()
    torch.testing.assert_close(vmap(half)(input[:, None])[:, 0], half(input), rtol=0.05, atol=0.02)


def test_functional_operations():
    pattern = Pattern.from_mask(torch.rand(4, 6) < 0.5)
    values, input = torch.randn(pattern.nnz), torch.randn(3, 6)
    found = vmap(lambda one: functional.linear(input, one, pattern))(torch.stack([values, 3 * values]))
    torch.testing.assert_close(found[1], 3 * functional.linear(input, values, pattern))


def test_what_has_no_derivative_says_so(pair):
    _, sparse = pair
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad(lambda input: grad(lambda x: sparse(x).square().sum())(input).sum())(images(1))
    with pytest.raises(RuntimeError, match="jvp"):
        jvp(sparse, (images(1),), (images(1),))


def test_bad_operands_are_named_under_vmap(pair):
    with pytest.raises(ValueError, match=r"input must be \(batch, 3, height, width\)"):
        vmap(pair[1])(torch.ones(2, 1, 4, 8, 8))
    with pytest.raises(TypeError, match="input must be torch.float32 as values"):
        vmap(pair[1])(torch.ones(2, 1, 3, 8, 8).double())
