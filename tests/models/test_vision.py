"""torchvision's classifiers: every one is prunable, and computes sparse what it computes masked."""

from __future__ import annotations

import pickle
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import models  # noqa: E402
from mpl_sparse.models import BaseModel, get_model, list_models, vision  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402

pytestmark = pytest.mark.usefixtures("torchvision")

# Above half a billion weights: whole on the meta device, and their classes with narrow settings.
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
    repeats = -(-shape.numel() // noise.numel())
    return noise.roll(shape.numel() % 997).repeat(repeats)[: shape.numel()].view(shape)


@torch.no_grad()
def make(name, **config):
    """The model, 80% pruned at random, its weights of a size that lets signals through."""
    if name in ("googlenet", "inception_v3"):
        config["init_weights"] = False
    with pytest.MonkeyPatch.context() as patch:  # without the time that its own initialisation takes
        for function in [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]:
            patch.setattr(nn.init, function, lambda tensor, *_, **__: tensor)
        model = getattr(models, name)(**config)
    if sum(map(torch.numel, model.parameters())) < 50e6:
        model.double()
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.copy_(tiled(NOISE, parameter.shape)).mul_((5 / fan_in) ** 0.5)
    for module in model.modules():
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.weight.add_(1)
    for layer in model.prunable_layers:
        layer.set_mask(tiled(KEPT, layer.weight_shape))
    return model


@torch.no_grad()
def settled(model, images):
    """In eval mode, its batch norms as if trained on these images: else signals grow or die on their way."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    model(images)
    return model.eval()


def logits(output):
    return output if isinstance(output, torch.Tensor) else output.logits


def agree(masked, size):
    """Check that the sparse form gives the outputs of the masked one, and that these tell inputs and classes apart."""
    dtype = next(masked.parameters()).dtype
    settled(masked, torch.randn(2, 3, size, size, dtype=dtype))
    sparse = masked.to_sparse()
    assert not [row for row in mpl_sparse.conversion_report(sparse).left if row.was.startswith("Dense")]
    assert 0.19 < sparse.density(count_bias=False) < 0.21
    with torch.inference_mode():
        images = torch.randn(1, 3, size, size, dtype=dtype)
        expected, actual = masked(images), sparse(images)
    spread = expected.std()
    assert 1e-3 < spread < 1e6
    # deep networks with random weights blow rounding errors up, ten thousand times and more
    assert (actual - expected).abs().max() < (1e-9 if dtype is torch.float64 else 1e-2) * spread


@pytest.mark.parametrize("name", sorted(set(vision.CONSTRUCTORS) - set(HUGE)))
def test_sparse_equals_masked(name):
    size = SIZES.get(name, 64)
    agree(make(name, **({"image_size": size} if name.startswith("vit") else {})), size)
