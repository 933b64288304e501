"""The gradient at all positions, block by block, against autograd through a dense weight in float64."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import (  # noqa: E402
    DenseConv2d,
    DenseLinear,
    DenseLSTM,
    prunable,
    prunable_layers,
    to_sparse,
)
from mpl_sparse.pruning.dynamic import GrowthGradients, growth_gradients  # noqa: E402

FORMS = {"masked": lambda layer: layer, "sparse": to_sparse}


def pruned(layer, pct=0.7):
    layer = layer.double()
    for _, each in prunable_layers(layer):
        each.random_prune_by_pct(pct)
    return layer


def dense_form(model):
    """The same numbers in nn's own layers: what autograd then gives is the gradient at all positions."""
    dense = copy.deepcopy(model)
    for _, layer in prunable_layers(dense):
        with torch.no_grad():
            layer.weight.mul_(layer.mask)
        layer.mask.fill_(True)
    return dense


def whole(gradients, name):
    """The blocks put together, after a look at their rows."""
    found, at = [], 0
    for rows, block in gradients.blocks(name):
        assert rows.start == at and block.shape[0] == len(rows) > 0
        assert len(rows) == 1 or block.numel() * block.element_size() <= gradients.block_bytes
        found.append(block)
        at = rows.stop
    assert at == gradients.layers[name].weight_shape[0]
    return torch.cat(found).reshape(gradients.layers[name].weight_shape)


def loss_of(output):
    return (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).square().sum()


def assert_dense(model, run, block_bytes=300):
    """What `run(model)` does, in both forms gives dense autograd's gradients, in blocks of so many bytes at most."""
    dense = dense_form(model)
    run(dense)
    for make in FORMS.values():
        form = make(model)
        with growth_gradients(form, block_bytes) as gradients:
            run(form)
        layers = dict(prunable_layers(dense))
        assert list(gradients.layers) == list(layers)
        for name, layer in layers.items():
            expected = torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad
            torch.testing.assert_close(whole(gradients, name), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("leading", [(), (5,), (0,), (2, 3), (2, 1, 3, 2)])
@pytest.mark.parametrize("block_bytes", [1, 300, 2**20])
def test_linear(leading, block_bytes):
    model = pruned(DenseLinear(7, 11))
    input = torch.randn(*leading, 7, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(input)).backward(), block_bytes)


CONVS = [
    {},
    {"stride": (2, 3)},
    {"padding": (1, 2)},
    {"padding": "same", "kernel_size": (4, 3), "dilation": (1, 2)},
    {"padding": "same", "kernel_size": 4, "padding_mode": "replicate"},
    {"padding": 1, "padding_mode": "reflect", "stride": 2},
    {"padding": (2, 1), "padding_mode": "circular"},
    {"dilation": 2, "padding": 2, "groups": 2},
    {"groups": 6, "stride": 2, "padding": 1},
    {"groups": 3, "kernel_size": 1},
]


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("block_bytes", [1, 500, 2**20])
def test_conv2d(options, block_bytes):
    options = {"kernel_size": 3, **options}
    model = pruned(DenseConv2d(6, 12, **options))
    input = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(input)).backward(), block_bytes)


@given(
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7)),
    block_bytes=st.integers(1, 2000),
)
def test_any_conv2d(groups, per_group, kernel, stride, padding, dilation, size, block_bytes):
    batch, height, width = size
    for length, k, p, d in zip((height, width), kernel, padding, dilation):
        assume(length + 2 * p >= d * (k - 1) + 1)
    model = pruned(
        DenseConv2d(groups * per_group[0], groups * per_group[1], kernel, stride, padding, dilation, groups), 0.5
    )
    input = torch.randn(batch, groups * per_group[0], height, width, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(input)).backward(), block_bytes)


def test_one_image_and_channels_last_and_a_slice():
    model = pruned(DenseConv2d(3, 4, 3, padding=1))
    images = torch.randn(4, 3, 6, 10, dtype=torch.float64)
    for input in (images[0], images.to(memory_format=torch.channels_last), images[::2, :, :, 1::2]):
        assert_dense(model, lambda each, input=input: loss_of(each(input)).backward())


class Shared(nn.Module):
    """A layer called twice, one not called, a relu in place after a layer and one after a view of its output."""

    def __init__(self):
        super().__init__()
        self.conv = DenseConv2d(3, 3, 3, padding=1)
        self.unused = DenseLinear(2, 2)
        self.head = DenseLinear(12, 5)

    def forward(self, images):
        hidden = F.relu(self.conv(images), inplace=True)
        hidden = self.conv(input=hidden)
        return self.head(hidden.flatten(1)).view(-1).relu_()


def test_layers_called_twice_or_never_and_changes_in_place():
    model = pruned(Shared(), 0.4)
    images = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(images)).backward())


def test_several_backwards_add_up_and_evaluation_does_not_count():
    model = pruned(Shared(), 0.4)
    images = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)

    def run(each):
        loss_of(each(images[0])).backward()
        with torch.no_grad():
            each(images[1])
        each(images[1])  # no backward follows
        loss_of(each(images[1])).backward()

    assert_dense(model, run)


def test_microbatches_may_share_one_buffer():
    model = pruned(nn.Sequential(nn.Flatten(), DenseLinear(4, 3)))
    buffer = torch.empty(5, 2, 2, dtype=torch.float64)

    def run(each):
        source = torch.Generator().manual_seed(1)
        for _ in range(3):
            loss_of(each(buffer.normal_(generator=source))).backward()

    assert_dense(model, run)


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}], ids=str)
def test_lstm(settings):
    model = pruned(DenseLSTM(4, 5, **settings), 0.5)
    steps = torch.randn(3, 2, 4, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(steps)[0]).backward())


def test_lstm_over_packed_sequences():
    model = pruned(DenseLSTM(4, 5, bidirectional=True), 0.5)
    steps = torch.randn(6, 3, 4, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(steps, [6, 2, 1])
    assert_dense(model, lambda each: loss_of(each(packed)[0].data).backward())


def test_checkpointed_layers_count_once():
    model = pruned(nn.Sequential(DenseLinear(3, 4), nn.Tanh(), DenseLinear(4, 2)))
    input = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for reentrant in (True, False):

        def run(each, reentrant=reentrant):
            output = torch.utils.checkpoint.checkpoint(each, input, use_reentrant=reentrant)
            loss_of(output).backward()

        assert_dense(model, run)


def test_a_users_hook_that_changes_the_output_comes_after():
    model = pruned(DenseLinear(3, 4))
    model.register_forward_hook(lambda module, args, output: output * 3)
    input = torch.randn(5, 3, dtype=torch.float64)
    assert_dense(model, lambda each: loss_of(each(input)).backward())


def test_half_precision_is_computed_in_float32():
    layer = to_sparse(prunable(nn.Linear(3, 4))).bfloat16()
    input = torch.randn(5, 3).bfloat16()
    with growth_gradients(layer) as gradients:
        layer(input).sum().backward()
    found = whole(gradients, "")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, input.float().sum(0).expand(4, 3), rtol=1e-6, atol=1e-6)


def test_hooks_are_gone_afterwards_also_after_an_error():
    model = pruned(nn.Sequential(DenseLinear(3, 4)))
    with pytest.raises(ZeroDivisionError), growth_gradients(model) as gradients:
        assert model[0]._forward_hooks
        1 / 0  # noqa: B018
    assert not model[0]._forward_hooks
    loss_of(model(torch.randn(2, 3, dtype=torch.float64))).backward()
    assert gradients.calls("0") == 0


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), to_sparse],
    ids=["copy", "pickle", "sparse"],
)
def test_copies_do_not_record_and_lose_their_hooks(copied):
    model = pruned(nn.Sequential(DenseLinear(3, 4)))
    gradients = GrowthGradients(dict(prunable_layers(model)))
    gradients.arm()
    twin = copied(model)
    loss_of(twin(torch.randn(2, 3, dtype=torch.float64))).backward()
    assert gradients.calls("0") == 0
    assert not twin[0]._forward_hooks and not twin[0]._forward_hooks_with_kwargs
    loss_of(model(torch.randn(2, 3, dtype=torch.float64))).backward()
    assert gradients.calls("0") == 1


def test_frozen_layers_are_left_out():
    model = prunable(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    model[0].weight.requires_grad_(False)
    with growth_gradients(model) as gradients:
        assert list(gradients.layers) == ["1"]


def test_refusals():
    model = prunable(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    fused = mpl_sparse.fuse(to_sparse(model).eval()).requires_grad_()
    with pytest.raises(ValueError, match=r"'0' has a fused activation \(relu\)"), growth_gradients(fused):
        pass
    with pytest.raises(TypeError, match="model must be an nn.Module"), growth_gradients(3):
        pass
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"block_bytes must be a positive integer, got {wrong}"):
            GrowthGradients({}, wrong)
    with pytest.raises(TypeError, match="got ReLU for 'act'"):
        GrowthGradients({"act": model[1]})
    with growth_gradients(model) as gradients, pytest.raises(KeyError, match="no layer 'x'"):
        gradients.blocks("x")
