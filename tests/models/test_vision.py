"""torchvision's classifiers: every one is prunable, and computes sparse what it computes masked."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from signals import assert_same_signals, keep_signals  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import models  # noqa: E402
from mpl_sparse.models import BaseModel, get_model, list_models, vision  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402

pytestmark = pytest.mark.usefixtures("torchvision", "one_thread")

# Above half a billion weights: made whole, and their classes run with narrow settings.
HUGE = ["vit_h_14", "regnet_y_128gf"]
SIZES = {"inception_v3": 75, "maxvit_t": 224}
# The smallest of each class, for a training step.
FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32"),
]


NOISE = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
KEPT = torch.rand(1 << 20, generator=torch.Generator().manual_seed(1)) < 0.2


def tiled(noise, shape):
    """Random numbers in no time."""
    start, count = shape.numel() % 997, shape.numel()
    repeats = -(-(start + count) // noise.numel())
    return (noise if repeats == 1 else noise.repeat(repeats))[start : start + count].view(shape)


def uninitialised(name, **config):
    """The model, without the time that its own initialisation takes."""
    if name in ("googlenet", "inception_v3"):
        config["init_weights"] = False
    with pytest.MonkeyPatch.context() as patch:
        for function in [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]:
            patch.setattr(nn.init, function, lambda tensor, *_, **__: tensor)
        return getattr(models, name)(**config)


@torch.no_grad()
def make(name, **config):
    """The model with random weights, 80% of them pruned at random."""
    model = uninitialised(name, **config)
    if name.startswith("efficientnet"):
        model.double()  # so deep that rounding errors of float32 grow a million times
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.copy_(tiled(NOISE, parameter.shape)).mul_((5 / fan_in) ** 0.5)
    for module in model.modules():
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.weight.add_(1)
    for layer in model.prunable_layers:
        layer.set_mask(tiled(KEPT, layer.weight_shape))
    return model


def agree(masked, size):
    """Check that the sparse form gives the outputs of the masked one."""
    images = torch.randn(2, 3, size, size, dtype=next(masked.parameters()).dtype)
    keep_signals(masked, images)
    sparse = masked.to_sparse()
    assert not [row for row in mpl_sparse.conversion_report(sparse).left if row.was.startswith("Dense")]
    assert 0.19 < sparse.density(count_bias=False) < 0.21
    with torch.inference_mode():
        assert_same_signals(sparse(images), masked(images))


@pytest.mark.parametrize("name", sorted(set(vision.CONSTRUCTORS) - set(HUGE)))
def test_sparse_equals_masked(name):
    size = SIZES.get(name, 64)
    agree(make(name, **({"image_size": size} if name.startswith("vit") else {})), size)


@pytest.mark.parametrize("name", HUGE)
def test_the_largest_are_prunable(name):
    model = uninitialised(name)
    assert isinstance(model, BaseModel) and model.nelement(count_bias=False) > 4e8
    left = {row.why for row in mpl_sparse.conversion_report(model).left if row.was.endswith("Linear")}
    assert left <= {"MultiheadAttention.forward reads its weight"}


def test_the_classes_of_the_largest_with_narrow_settings(torchvision):
    vit = dict(image_size=28, patch_size=14, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=256)
    params = torchvision.models.regnet.BlockParams.from_init_params(
        depth=8, w_0=48, w_a=20.0, w_m=2.5, group_width=24, se_ratio=0.25
    )
    for name, size, config in [("VisionTransformer", 28, vit), ("RegNet", 64, {"block_params": params})]:
        model = make(name, **config)
        assert type(model) is getattr(models, name)
        agree(model, size)


def loss(output, labels):
    """Of GoogLeNet and Inception with their auxiliary classifiers."""
    outputs = output if isinstance(output, tuple) else (output,)
    return sum(F.cross_entropy(each, labels) for each in outputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step(name):
    size = SIZES.get(name, 64)
    config = {"vit_b_32": {"image_size": size}, "inception_v3": {"aux_logits": False}}
    masked = make(name, **config.get(name, {})).double().train()
    for module in masked.modules():
        if isinstance(module, nn.BatchNorm2d):  # a gradient through statistics of few numbers means nothing
            module.track_running_stats, module.eps = False, 1.0
    sparse = masked.to_sparse()
    images, labels = torch.randn(2, 3, size, size, dtype=torch.float64), torch.tensor([1, 7])
    losses = []
    for model in (masked, sparse):
        torch.manual_seed(3)  # of dropout and stochastic depth
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            value = loss(model(images), labels)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(value.item())
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-7) and losses[0] != losses[1]
    for (_, dense), (_, layer) in zip(prunable_layers(masked), prunable_layers(sparse)):
        torch.testing.assert_close(layer.remaining_weight(), dense.remaining_weight(), rtol=1e-5, atol=1e-7)


def test_all_of_torchvisions_classifiers_are_here(torchvision):
    theirs = set(torchvision.models.list_models(module=torchvision.models))
    assert set(vision.CONSTRUCTORS) >= theirs and len(vision.CONSTRUCTORS) == len(set(vision.CONSTRUCTORS)) == 80
    assert set(vision.CONSTRUCTORS) <= set(list_models()) <= set(dir(models))


def test_a_model_is_torchvisions_own_with_more_methods(torchvision):
    model = models.resnet18()
    plain = torchvision.models.resnet18()
    assert (
        isinstance(model, torchvision.models.ResNet) and isinstance(model, BaseModel) and type(model) is models.ResNet
    )
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    model.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    assert "layer2.0.downsample.0" in model.prunable_layer_prefixes
    assert len(models.resnet18(exclude="*.downsample.*").prunable_layers) == 21 - 3
    sparse = model.prune_by_pct(0.9).to_sparse()
    again = pickle.loads(pickle.dumps(sparse))
    assert type(again) is models.ResNet and torch.equal(again(images), sparse(images))
    own = models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    assert own.nnz() == own.nelement() > 0


def test_transitions_and_auxiliary_classifiers_are_prunable():
    names = models.densenet121().prunable_layer_prefixes
    assert "features.transition1.conv" in names
    with pytest.warns(FutureWarning, match="default weight initialization"):
        names = models.googlenet().prunable_layer_prefixes
    assert {"aux1.fc2", "aux2.conv.conv", "aux2.fc1", "aux2.fc2"} <= set(names)


ORIGINAL = """
AlexNet alexnet ResNet resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2
wide_resnet101_2 VGG vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn SqueezeNet squeezenet1_0 squeezenet1_1
Inception3 inception_v3 DenseNet densenet121 densenet169 densenet201 densenet161 GoogLeNet googlenet LeNet5 lenet5 Conv2
conv2 Conv4 conv4
"""


@pytest.mark.parametrize("name", ORIGINAL.split())
def test_every_name_of_the_original(name):
    assert callable(getattr(models, name))


def test_pretrained_is_torchvisions_to_explain():
    with pytest.warns(UserWarning, match="'pretrained' is deprecated"):
        assert isinstance(models.squeezenet1_1(pretrained=False), models.SqueezeNet)
    with pytest.raises(KeyError, match="NO_SUCH"):
        get_model("resnet18", weights="NO_SUCH")


def test_names():
    assert list_models("resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]
    assert type(get_model("conv2")) is models.Conv2
    with pytest.raises(ValueError, match=r"name must be one of mpl_sparse.models.list_models\(\), got 'resnet19'"):
        get_model("resnet19")
    for bad in (None, 18):
        with pytest.raises(TypeError, match="must be a"):
            get_model(bad)
        with pytest.raises(TypeError, match="must be a"):
            list_models(bad)
    with pytest.raises(AttributeError, match="no attribute 'resnet19'"):
        _ = models.resnet19
