"""mpl_sparse.fuse: equal results within a stated bound, and everything that it must leave alone."""

import contextlib
import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import oracle  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, Folded, Prunable, SparseConv2d, SparseLinear  # noqa: E402

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
DTYPES = [torch.float32, torch.float64]


def trained(model, dtype=torch.float32, density=0.4, sparse=True):
    """The model with pruned, sparse layers and batch norms that have seen something, for inference."""
    for module in model.modules():
        if isinstance(module, NORMS):
            for name, low, high in (
                ("running_mean", -1, 1),
                ("running_var", 0.3, 2),
                ("weight", -1, 1.5),
                ("bias", -1, 1),
            ):
                if getattr(module, name) is not None:
                    nn.init.uniform_(getattr(module, name), low, high)
    mpl_sparse.prunable(model)
    mpl_sparse.random_prune_by_pct(model, 1 - density)
    return (mpl_sparse.to_sparse(model) if sparse else model).to(dtype).eval()


def magnitude_and_roundings(model, input):
    """The sums of |products| that the model's outputs are made of, and more roundings than lie on any way to one.

    Every term is taken by its absolute value on the way; ReLU, pooling and addition move no two numbers further apart.
    """
    absolute, roundings = copy.deepcopy(model).double(), 0
    for module in absolute.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data.abs_()
        if isinstance(module, NORMS):
            roundings += 5
            if module.running_mean is not None:
                module.running_mean.abs_().neg_()
        elif isinstance(module, (nn.Conv2d, nn.Linear, SparseConv2d, SparseLinear)):
            shape = module.weight_shape if isinstance(module, Prunable) else module.weight.shape
            roundings += shape[1:].numel() + 10  # the bias, and the folding of a scale into it and the weight
        else:
            roundings += 70  # an average over a plane, or an addition
    with torch.no_grad():
        return absolute(input.double().abs()), roundings


def assert_equal(fused, model, input):
    """|fused(x) - model(x)| <= 2 gamma_k * the sum of |products|."""
    with torch.no_grad():
        actual, expected = fused(input), model(input)
    assert actual.dtype == expected.dtype == input.dtype
    magnitude, roundings = magnitude_and_roundings(model, input)
    bound = 2 * oracle.gamma(roundings, np.dtype(str(input.dtype).split(".")[1])) * magnitude
    assert actual.shape == expected.shape
    assert ((actual.double() - expected.double()).abs() <= bound).all()


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def activations(model):
    return [module.activation for module in model.modules() if isinstance(module, (SparseConv2d, SparseLinear))]


def conv_bn_relu(*sizes, **options):
    return [nn.Conv2d(*sizes, **options), nn.BatchNorm2d(sizes[1]), nn.ReLU(inplace=True)]


class BasicBlock(nn.Module):
    """One self.relu, called after the first batch norm and after the addition."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))
        self.stride = stride

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class FunctionalBlock(BasicBlock):
    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The shape of a ResNet-18, narrow."""

    def __init__(self, block=BasicBlock, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            blocks = block(sizes[i - 1], sizes[i], 1 if i == 1 else 2), block(sizes[i], sizes[i], 1)
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class VGG(nn.Module):
    """The shape of a VGG-16-BN, narrow."""

    def __init__(self, width=4):
        super().__init__()
        layers, channels = [], 3
        for size in (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"):
            if size == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += conv_bn_relu(channels, size * width, kernel_size=3, padding=1)
                channels = size * width
        self.features = nn.Sequential(*layers)
        hidden = 4 * width
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
        )
        self.classifier.append(nn.Linear(hidden, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def mixed():
    """Groups, depthwise, strides, layers without a bias, without a norm, without a ReLU."""
    return nn.Sequential(
        *conv_bn_relu(3, 8, kernel_size=3, padding=1, bias=False),
        *conv_bn_relu(8, 8, kernel_size=3, padding=1, groups=8),
        nn.Conv2d(8, 12, 3, stride=2, groups=4, padding_mode="reflect", padding=1),
        nn.BatchNorm2d(12, affine=False),
        nn.Conv2d(12, 6, 1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 9, bias=False),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("make", "size"),
    [(mixed, 16), (ResNet, 40), (lambda: ResNet(FunctionalBlock), 40), (VGG, 32)],
    ids=["mixed", "ResNet", "functional ResNet", "VGG"],
)
def test_equal_results(make, size, dtype, backend):
    model = trained(make(), dtype)
    before = copy.deepcopy(model.state_dict())
    fused = mpl_sparse.fuse(model)
    input = torch.randn(3, 3, size, size, dtype=dtype)
    assert_equal(fused, model, input)
    assert_equal(fused, model, input.contiguous(memory_format=torch.channels_last))
    assert_equal(fused, model, input[:1])
    assert count(fused, NORMS) == 0
    assert type(fused) is type(model)
    assert count(model, NORMS) > 0 and count(model, Folded) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("block", [BasicBlock, FunctionalBlock])
def test_what_is_fused_in_a_resnet(block):
    fused = mpl_sparse.fuse(trained(ResNet(block)))
    assert activations(fused).count("relu") == 9  # the first one, and one in each block
    assert isinstance(fused.relu, Folded) and "ReLU into 'conv1'" in repr(fused.relu)
    part = fused.layer2[0]
    assert type(part).__name__ == block.__name__ and part.stride == 2
    assert part.conv1.activation == "relu" and part.conv2.activation == "none"
    assert "activation=relu" in repr(part.conv1) and "activation" not in repr(part.conv2)
    assert set(dict(fused.named_parameters())) >= {"conv1.values", "conv1.bias", "layer1.0.conv2.values", "fc.bias"}


def test_what_is_fused_in_a_vgg():
    fused = mpl_sparse.fuse(trained(VGG()))
    assert activations(fused) == ["relu"] * 15 + ["none"]
    assert count(fused, Folded) == 13 + 15
    assert count(fused, nn.ReLU) == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_dense_layers_between(sparse, backend):
    model = nn.Sequential(
        *conv_bn_relu(2, 4, kernel_size=3),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    model = trained(model, torch.float64, sparse=sparse)
    if sparse:
        model[3] = model[3].to_dense()
    model = nn.Sequential(model, nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval()
    fused = mpl_sparse.fuse(model)
    assert isinstance(fused[0][3], DenseConv2d) and isinstance(fused[0][4], Folded)
    assert isinstance(fused[0][2], Folded if sparse else nn.ReLU)
    assert isinstance(fused[1], nn.BatchNorm1d) and isinstance(fused[3], Folded)  # its layer ends another module
    input = torch.randn(2, 2, 8, 8).double()
    torch.testing.assert_close(fused(input), model(input), rtol=1e-12, atol=1e-12)


class Tapped(nn.Module):
    """The convolution's value has another use."""

    def __init__(self, tap):
        super().__init__()
        self.conv, self.bn, self.relu = conv_bn_relu(2, 3, kernel_size=3)
        self.tap = tap
        self.kept = []

    def forward(self, x):
        y = self.conv(x)
        if self.tap == "output":
            return self.relu(self.bn(y)), y
        if self.tap == "attribute":
            self.last = y
        if self.tap == "list":
            self.kept.append(y)
        if self.tap == "twice":
            return self.relu(self.bn(y)) + self.bn(2 * y)
        if self.tap == "parameter":
            return self.relu(self.bn(y)) + self.conv.bias.sum()
        if self.tap == "in place":
            y += 1
        if self.tap == "branch" and y.sum() > 0:
            return y
        if self.tap == "type" and isinstance(x, torch.Tensor):
            return y.sin()
        return self.relu(self.bn(y))


@pytest.mark.parametrize("tap", ["output", "attribute", "list", "twice", "parameter", "in place", "branch", "type"])
def test_values_with_another_use_are_left_alone(tap):
    model = trained(Tapped(tap))
    fused = mpl_sparse.fuse(model)
    assert isinstance(fused.bn, nn.BatchNorm2d) and activations(fused) == ["none"]
    assert not hasattr(model, "last") and not model.kept
    input = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(fused(input), model(input), rtol=0, atol=0)


class InPlace(nn.Module):
    """What it adds reaches its input too, which its caller reads again."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        same = x
        x += 1
        return F.relu(self.conv(same)) + x


def test_writing_in_place_stays_what_it_is():
    model = trained(InPlace())
    fused = mpl_sparse.fuse(model)
    assert activations(fused) == ["relu"]
    first, second = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    torch.testing.assert_close(fused(first), model(second), rtol=0, atol=0)
    assert torch.equal(first, second) and first[0, 0, 0, 0] == 2


def test_shared_modules():
    conv, bn, relu = conv_bn_relu(3, 3, kernel_size=1)
    model = trained(nn.Sequential(conv, bn, relu, conv, relu, nn.Conv2d(3, 3, 1), bn), torch.float64)
    fused = mpl_sparse.fuse(model)
    assert activations(fused) == ["none", "none"] and count(fused, Folded) == 0
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    model = trained(nn.Sequential(block, block), torch.float64)  # a whole chain that is run twice
    fused = mpl_sparse.fuse(model)
    assert fused[0] is fused[1] and activations(fused) == ["relu"]
    assert_equal(fused, model, torch.randn(2, 3, 4, 4).double())


@pytest.mark.parametrize("hooked", [0, 1, 2])
def test_hooks_are_left_alone(hooked):
    model = trained(nn.Sequential(*conv_bn_relu(2, 3, kernel_size=3)), torch.float64)
    seen = []
    model[hooked].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    fused = mpl_sparse.fuse(model)
    assert isinstance(fused[1], Folded) == (hooked == 2)
    assert activations(fused) == ["none"]
    input = torch.randn(1, 2, 5, 5).double()
    assert_equal(fused, model, input)
    seen.clear()
    fused(input), model(input)
    torch.testing.assert_close(*seen, rtol=1e-12, atol=1e-12)


def test_hooks_of_what_holds_the_layers_go_on():
    model, seen = trained(ResNet()), []
    for module in (model, model.layer1, model.layer1[0]):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused = mpl_sparse.fuse(model)
    assert fused.layer1[0].conv1.activation == "none"  # its call stands in code
    assert fused.layer1[1].conv1.activation == "relu"
    fused(torch.randn(1, 3, 40, 40))
    assert len(seen) == 3


class OnlyCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*conv_bn_relu(2, 3, kernel_size=3))

    def forward(self, x):
        if x.sum() == 12345:
            return x
        return self._run(x)

    def _run(self, x):
        return self.features(x)


class Iterates(OnlyCalls):
    def _run(self, x):
        for layer in self.features:
            x = layer(x) + 1
        return x


class Aliases(OnlyCalls):
    def _run(self, x):
        layers = self.features
        return layers[0](x)


class Walks(OnlyCalls):
    def _run(self, x):
        for part in self.children():
            x = part[0](x)
        return x


class Lists(OnlyCalls):
    def __init__(self):
        super().__init__()
        self.parts = list(self.features)

    def _run(self, x):
        return self.parts[1](self.parts[0](x).abs())


@pytest.mark.parametrize("cls", [OnlyCalls, Iterates, Aliases, Walks, Lists])
def test_a_forward_that_cannot_be_traced(cls):
    model = trained(cls(), torch.float64)
    if cls is Lists:
        model.parts = list(model.features)
    fused = mpl_sparse.fuse(model)
    assert activations(fused) == ["relu" if cls is OnlyCalls else "none"]
    input = torch.randn(1, 2, 5, 5).double()
    torch.testing.assert_close(fused(input), model(input), rtol=1e-12, atol=1e-12)


class Masking(nn.Module):
    """An optional argument; with `early`, one that decides whether the chain is a chain."""

    def __init__(self, early):
        super().__init__()
        self.conv, self.bn, self.relu = conv_bn_relu(2, 3, kernel_size=1)
        self.early = early

    def forward(self, x, mask=None):
        x = self.conv(x)
        if self.early and mask is not None:
            x = x * mask
        x = self.relu(self.bn(x))
        return x if mask is None else x * mask


@pytest.mark.parametrize("early", [False, True])
def test_optional_arguments(early):
    model = trained(Masking(early), torch.float64)
    fused = mpl_sparse.fuse(model)
    assert type(fused) is Masking and activations(fused) == ["none" if early else "relu"]
    input, mask = torch.randn(1, 2, 4, 4).double(), torch.randn(4, 4).double()
    for arguments in ((input,), (input, mask)):
        torch.testing.assert_close(fused(*arguments), model(*arguments), rtol=1e-12, atol=1e-12)


class Contextual(nn.Module):
    """A graph would lose the context, the noise, or a method."""

    def __init__(self, what):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.what = what

    def forward(self, x):
        if self.what == "with":
            with contextlib.nullcontext():
                return F.relu(self.conv(x))
        return F.relu(self.conv(x)) + torch.rand(1)


class WithMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return F.relu(self.conv(x))

    def predict(self, x):
        return self(x).argmax(1)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.relu(self.conv(x))


class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    @torch.no_grad()
    def forward(self, x):
        return F.relu(self.conv(x))


LOSSES = [lambda: Contextual("with"), lambda: Contextual("noise"), WithMethod, Counts, Decorated]


@pytest.mark.parametrize("make", LOSSES)
def test_what_a_graph_would_lose_stays(make):
    model = trained(make())
    fused = mpl_sparse.fuse(model)
    assert type(fused) is type(model) and activations(fused) == ["none"]


def test_norms_that_cannot_be_folded():
    for norm in (nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3), nn.BatchNorm2d(3).double()):
        model = nn.Sequential(SparseConv2d(2, 3, 1), norm, nn.ReLU()).eval()
        fused = mpl_sparse.fuse(model)
        assert type(fused[1]) is type(norm) and isinstance(fused[2], nn.ReLU) and activations(fused) == ["none"]


def test_a_folded_1d_norm_refuses_three_axes():
    model = trained(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    fused = mpl_sparse.fuse(model)
    model(torch.randn(2, 5, 4))  # normalised over its second axis
    with pytest.raises(ValueError, match=r"BatchNorm1d folded into '0' takes \(batch, features\), got \(2, 5, 5\)"):
        fused(torch.randn(2, 5, 4))


def test_errors():
    model = nn.Sequential(SparseConv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    with pytest.raises(TypeError, match="model must be an nn.Module, got int"):
        mpl_sparse.fuse(3)
    model[1].train()
    with pytest.raises(ValueError, match=r"'1' is in training mode: call model.eval\(\)"):
        mpl_sparse.fuse(model)


@pytest.mark.parametrize("make", [mixed, ResNet])
def test_fusing_again_changes_nothing(make):
    once = mpl_sparse.fuse(trained(make()))
    twice = mpl_sparse.fuse(once)
    assert repr(twice) == repr(copy.deepcopy(once))
    input = torch.randn(2, 3, 40 if make is ResNet else 16, 40 if make is ResNet else 16)
    assert torch.equal(twice(input), once(input))


def test_models_without_anything_to_fuse():
    model = trained(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(27, 4)))
    fused = mpl_sparse.fuse(model)
    assert repr(fused) == repr(model)
    assert torch.equal(fused(torch.ones(1, 2, 5, 5)), model(torch.ones(1, 2, 5, 5)))
    layer = SparseLinear(3, 2).eval()
    assert isinstance(mpl_sparse.fuse(layer), SparseLinear)


def test_copies_state_dict_and_pickle():
    fused = mpl_sparse.fuse(trained(ResNet()))
    input = torch.randn(1, 3, 40, 40)
    other = mpl_sparse.fuse(trained(ResNet()))
    other.load_state_dict(fused.state_dict())
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for copied in (
        other,
        copy.deepcopy(fused),
        pickle.loads(pickle.dumps(fused)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(copied(input), fused(input))
        assert copied.layer2[0].stride == 2
    assert not any(parameter.requires_grad for parameter in fused.parameters())


@pytest.mark.parametrize("make", [lambda: nn.Sequential(*conv_bn_relu(3, 4, kernel_size=3)), ResNet])
def test_gradients_to_the_input_are_right(make):
    model = trained(make(), torch.float64)
    fused = mpl_sparse.fuse(model)
    gradients = []
    for each in (model, fused):
        input = torch.linspace(-1, 1, 3 * 40 * 40).double().reshape(1, 3, 40, 40).requires_grad_()
        each(input).square().sum().backward()
        gradients.append(input.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_gradients_to_the_values_are_right():
    layer = mpl_sparse.fuse(trained(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), torch.float64))[0].requires_grad_()
    input = torch.randn(3, 6).double()
    assert torch.autograd.gradcheck(lambda x: layer(x), (input.requires_grad_(),))
    layer(input).sum().backward()
    active = (layer(input) > 0).double()
    torch.testing.assert_close(layer.bias.grad, active.sum(0))


def test_no_dense_form_of_a_fused_layer():
    fused = mpl_sparse.fuse(trained(nn.Sequential(*conv_bn_relu(2, 3, kernel_size=3), nn.Flatten(), nn.Linear(27, 2))))
    for convert in (mpl_sparse.to_dense, lambda model: model[0].to_dense()):
        with pytest.raises(ValueError, match="activation=relu has no dense form"):
            convert(fused)
    fused[4].to_dense()


def test_an_unknown_activation_is_refused():
    layer = SparseLinear(3, 2)
    layer.activation = "gelu"
    for requires_grad in (False, True):
        layer.requires_grad_(requires_grad)
        with pytest.raises(ValueError, match="activation must be 'none' or 'relu', got 'gelu'"):
            layer(torch.ones(1, 3))


def test_pruning_a_fused_model():
    fused = mpl_sparse.fuse(trained(nn.Sequential(*conv_bn_relu(2, 3, kernel_size=3)), torch.float64))
    mpl_sparse.prune_by_pct(fused, 0.5)
    with torch.no_grad():
        expected = F.conv2d(torch.ones(1, 2, 5, 5).double(), fused[0].weight.to_dense(), fused[0].bias).relu()
    torch.testing.assert_close(fused(torch.ones(1, 2, 5, 5).double()), expected)


def test_compile_and_export():
    model = trained(nn.Sequential(mixed(), nn.ReLU()))
    fused = mpl_sparse.fuse(model)
    input = torch.randn(2, 3, 16, 16)
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(fused, (input,)).module()
    for run in (compiled, exported):
        torch.testing.assert_close(run(input), fused(input))
    rewritten = mpl_sparse.fuse(trained(BasicBlock(2, 4, 1)))
    input = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(torch.export.export(rewritten, (input,)).module()(input), rewritten(input))
    torch.compiler.reset()


@st.composite
def chains(draw):
    """Layers of a random chain, and the shape of its input."""
    channels, size = draw(st.integers(1, 4)), draw(st.integers(5, 9))
    shape, layers, seed = (draw(st.integers(1, 3)), channels, size, size), [], draw(st.integers(0, 2**31))
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([1, channels]))
        out = groups * draw(st.integers(1, 3))
        layers.append(
            nn.Conv2d(channels, out, draw(st.sampled_from([1, 3])), groups=groups, bias=draw(st.booleans()), padding=1)
        )
        channels = out
        layers += draw(st.sampled_from([[], [nn.BatchNorm2d(out)], [nn.BatchNorm2d(out, affine=False)]]))
        layers += draw(st.sampled_from([[], [nn.ReLU()], [nn.ReLU(inplace=True)], [nn.ReLU(), nn.BatchNorm2d(out)]]))
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
        layers += draw(st.sampled_from([[], [nn.BatchNorm1d(3)], [nn.ReLU()], [nn.BatchNorm1d(3), nn.ReLU()]]))
    return layers, shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0.0, 0.3, 1.0])), seed


@given(chains())
def test_random_chains(chain):
    layers, shape, dtype, density, seed = chain
    torch.manual_seed(seed)
    model = trained(nn.Sequential(*layers), dtype, density)
    fused = mpl_sparse.fuse(model)
    assert_equal(fused, model, torch.randn(shape, dtype=dtype))
    assert all(
        not isinstance(after, NORMS) or isinstance(before, (nn.ReLU, Folded))
        for before, after in zip(fused, list(fused)[1:])
    )
