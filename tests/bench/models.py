"""Whole models, end to end through their modules: dense PyTorch against pruned, sparse (and fused) ones."""

from __future__ import annotations

import copy
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fuse_conv_bn

import mpl_sparse

from .peers.ours import Ours
from .peers.torch_dense import LAYOUTS
from .task import Candidate
from .timing import timer

SEED = 0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.body(images) + self.shortcut(images))


def resnet18() -> nn.Module:
    """The shape of ResNet-18 (He et al., arXiv:1512.03385). Input (N, 3, 224, 224)."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [ResidualBlock(before, after, 1 if before == after else 2) for before, after in zip(widths, widths[1:])]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )


def vgg16() -> nn.Module:
    """The shape of VGG-16 (Simonyan and Zisserman, arXiv:1409.1556), without batch norm. Input (N, 3, 224, 224)."""
    layers: List[nn.Module] = []
    before = 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for features in (512 * 7 * 7, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def conv2() -> nn.Module:
    """The shape of mpl_sparse.models.conv2, of plain layers: masks would slow the dense side. Input (N, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 2048),
        nn.ReLU(inplace=True),
        nn.Linear(2048, 62),
    )


class Network(NamedTuple):
    """A model and the shape of one image."""

    name: str
    make: Callable[[], nn.Module]
    image: Tuple[int, int, int]


NETWORKS = (
    Network("conv2 @28", conv2, (1, 28, 28)),
    Network("ResNet-18 @224", resnet18, (3, 224, 224)),
    Network("VGG-16 @224", vgg16, (3, 224, 224)),
)


def candidates(network: Network, sparsities: Sequence[float]) -> List[Candidate]:
    """The dense model in both layouts, as it is and with torch's own folding of batch norm into convolutions; and the
    sparse model: as it is, made from the folded one, and by mpl_sparse.fuse where there is such a function.

    Raises:
        AssertionError: a sparse model computes something else than its masked one.
    """
    torch.manual_seed(SEED)
    dense = network.make().eval()
    images = torch.randn(1, *network.image)
    folds = any(isinstance(module, nn.BatchNorm2d) for module in dense.modules())
    folded = fuse_conv_bn(dense) if folds else dense
    found = []
    for name, layout in LAYOUTS.items():
        found.append(_candidate(name, None, _laid_out(dense, layout), images.to(memory_format=layout), baseline=True))
        if folds:
            found.append(
                _candidate(f"{name}, folded", None, _laid_out(folded, layout), images.to(memory_format=layout))
            )
    fuse = getattr(mpl_sparse, "fuse", None)
    for sparsity in sparsities:
        sparse = pruned(dense, sparsity, images)
        found.append(_candidate(Ours.name, sparsity, sparse, images))
        if folds:
            found.append(_candidate(f"{Ours.name}, folded", sparsity, pruned(folded, sparsity, images), images))
        if fuse is not None:
            found.append(_candidate(f"{Ours.name}, fused", sparsity, fuse(sparse), images))
    return found


def pruned(model: nn.Module, sparsity: float, images: Tensor) -> nn.Module:
    """A sparse copy of `model`, each layer pruned at random.

    Raises:
        AssertionError: for `images` it computes something else than the masked model.
    """
    masked = mpl_sparse.prunable(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(SEED)
    for _, layer in mpl_sparse.nn.prunable_layers(masked):
        layer.set_mask(torch.rand(layer.weight_shape, generator=generator) >= sparsity)
    sparse = mpl_sparse.to_sparse(masked).eval()
    expected = masked(images)
    torch.testing.assert_close(sparse(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    return sparse


def _laid_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=layout)


def _candidate(
    peer: str, sparsity: Optional[float], model: nn.Module, images: Tensor, baseline: bool = False
) -> Candidate:
    return Candidate(peer, sparsity, timer(lambda: model(images)), baseline=baseline)
