"""The convolutional networks of LEAF (Caldas et al., "LEAF: a benchmark for federated settings", arXiv:1812.01097)."""

from __future__ import annotations

from torch import Tensor, nn

from ..nn import DenseConv2d, DenseLinear
from .base_model import BaseModel

__all__ = ["Conv2", "Conv4", "conv2", "conv4"]


class Conv2(BaseModel):
    """LEAF's network for FEMNIST. Input (N, 1, 28, 28), output (N, 62)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            DenseConv2d(1, 32, kernel_size=5, padding=2),  # 32x28x28
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, stride=2),  # 32x14x14
            DenseConv2d(32, 64, kernel_size=5, padding=2),  # 64x14x14
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, stride=2),  # 64x7x7
        )
        self.classifier = nn.Sequential(
            DenseLinear(64 * 7 * 7, 2048),
            nn.ReLU(inplace=True),
            DenseLinear(2048, 62),
        )

    def forward(self, inp: Tensor) -> Tensor:
        return self.classifier(self.features(inp).flatten(1))


class Conv4(BaseModel):
    """LEAF's network for CelebA. Input (N, 3, 84, 84), output (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._block(3, padding=1),  # 32x42x42
            *self._block(32, padding=1),  # 32x21x21
            *self._block(32, padding=2),  # 32x11x11
            *self._block(32, padding=2),  # 32x6x6
        )
        self.classifier = DenseLinear(32 * 6 * 6, 2)

    @staticmethod
    def _block(in_channels: int, padding: int) -> tuple[nn.Module, ...]:
        return (
            DenseConv2d(in_channels, 32, kernel_size=3, padding=padding),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )

    def forward(self, inp: Tensor) -> Tensor:
        return self.classifier(self.features(inp).flatten(1))


def conv2() -> Conv2:
    """A fresh `Conv2`."""
    return Conv2()


def conv4() -> Conv4:
    """A fresh `Conv4`."""
    return Conv4()


CONSTRUCTORS = (conv2, conv4)
