"""Other devices: a clear answer for CUDA, shapes on the meta device, the default device."""

import copy

import pytest

torch = pytest.importorskip("torch")

from twins import images, masked_model, train, twins  # noqa: E402

from mpl_sparse.nn import SparseConv2d, SparseLinear, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use CUDA")
def test_a_failed_move_to_cuda_leaves_the_model_whole():
    _, sparse = twins()
    expected = sparse.eval()(images())
    with pytest.raises((AssertionError, RuntimeError), match="CUDA|NVIDIA"):
        sparse.to("cuda")
    assert torch.equal(sparse(images()), expected)
    sparse[7].prune_by_pct(0.5)
    train(sparse.train())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_layers_say_that_they_need_the_cpu():
    _, sparse = twins()
    with pytest.raises(ValueError, match="must be a dense CPU tensor, got .* on cuda"):
        sparse.to("cuda")(images().to("cuda"))
    sparse.to("cpu")(images())


def test_on_the_meta_device_shapes_are_computed():
    masked, sparse = (copy.deepcopy(model).to("meta") for model in twins())
    for model in (masked, sparse):
        output = model(images().to("meta"))
        assert output.is_meta and output.shape == (6, 10)
        output.sum().backward()
    assert sparse[7].values.grad.is_meta and sparse[7].values.grad.shape == sparse[7].values.shape
    assert SparseLinear(4, 3, device="meta")(torch.ones(2, 5, 4, device="meta")).shape == (2, 5, 3)
    half = SparseLinear(4, 3, device="meta").half()
    assert half(torch.ones(4, device="meta").half()).dtype == torch.float16
    with torch.no_grad(), pytest.raises(ValueError, match="input must have 4 features"):
        half(torch.ones(5, device="meta").half())


@pytest.mark.parametrize(
    "make", [lambda **device: SparseLinear(4, 3, **device), lambda **device: SparseConv2d(4, 3, 1, **device)]
)
def test_devices_are_not_mixed(make):
    input = torch.ones(4, 1, 4)
    for layer, tensor in ((make(), input.to("meta")), (make(device="meta"), input)):
        with pytest.raises(ValueError, match="must be a dense CPU tensor, got torch.strided on meta"):
            layer(tensor)
    layer = make(device="meta")
    layer.bias = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="bias must be a dense tensor on meta as input and values, got .* on cpu"):
        layer(input.to("meta"))


def test_a_checkpoint_is_assigned_to_a_model_without_memory():
    _, source = twins()
    shell = copy.deepcopy(source).to("meta")
    shell.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(shell.eval()(images()), source.eval()(images()))
    with torch.device("meta"):
        layer = SparseLinear(256, 10)
    layer.load_state_dict(source[7].state_dict(), assign=True)
    assert layer.pattern == source[7].pattern
    assert torch.equal(layer(torch.ones(1, 256)), source[7](torch.ones(1, 256)))


def test_to_empty_keeps_the_positions():
    _, source = twins()
    state = source.state_dict()
    for shell in (copy.deepcopy(source).to("meta"), copy.deepcopy(source)):
        shell.to_empty(device="cpu")
        assert all(torch.equal(tensor, state[name]) for name, tensor in shell.state_dict().items() if "row_ptr" in name)
        assert all(torch.equal(tensor, state[name]) for name, tensor in shell.state_dict().items() if "col_idx" in name)
        for parameter, other in zip(shell.parameters(), source.parameters()):
            parameter.data.copy_(other)
        assert torch.equal(shell[7](torch.ones(1, 256)), source[7](torch.ones(1, 256)))


def test_a_masked_layer_on_meta_needs_a_pattern_to_become_sparse():
    masked = masked_model().to("meta")
    with pytest.raises(ValueError, match="the weight is on the meta device"):
        to_sparse(masked)
    pattern = Pattern.from_mask(torch.eye(10, 256, dtype=torch.bool))
    assert SparseLinear.from_dense(masked[7], pattern).values.shape == (10,)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_default_device_is_not_ours_to_follow(memory_format):
    masked, sparse = twins()
    input = images().contiguous(memory_format=memory_format).requires_grad_()
    expected = sparse(input)
    torch.set_default_device("meta")
    try:
        output = sparse(input)
        output.sum().backward()
        converted = to_sparse(masked)
        traced = torch.vmap(sparse[7])(torch.ones(1, 256, device="cpu"))
    finally:
        torch.set_default_device(None)
    assert torch.equal(output, expected) and not traced.is_meta
    assert not any(tensor.is_meta for tensor in converted.state_dict().values())
    assert all(layer.values.grad.is_cpu for _, layer in prunable_layers(sparse))
