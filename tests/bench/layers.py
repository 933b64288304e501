"""The one list of measured layers, their classes, and the speed-ups aimed at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple, Union

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)

# The classes, in the order of tables and plots.
KINDS = ("3x3", "3x3 stride 2", "1x1", "5x5 and 7x7", "depthwise", "linear", "whole models")


@dataclass(frozen=True)
class Conv:
    """A convolution of square images; the padding keeps the size, or divides it by the stride.

    Attributes:
        in_channels, out_channels: the channels.
        kernel: height and width of the kernel.
        size: height and width of the input.
    """

    in_channels: int
    out_channels: int
    kernel: int
    size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    batches = (1, 16)

    @property
    def padding(self) -> int:
        """On each side."""
        return self.dilation * (self.kernel // 2)

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def weight_shape(self) -> Tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if self.groups == self.in_channels > 1:
            return "depthwise"
        if self.kernel > 3:
            return "5x5 and 7x7"
        if self.kernel == 1:
            return "1x1"
        return "3x3 stride 2" if self.stride == 2 else "3x3"

    @property
    def name(self) -> str:
        depthwise = self.groups == self.in_channels > 1
        options = {"stride": self.stride, "dilation": self.dilation, "groups": 1 if depthwise else self.groups}
        words = [f"{self.kernel}x{self.kernel}", *(f"{key} {value}" for key, value in options.items() if value > 1)]
        channels = f"depthwise {self.in_channels}" if depthwise else f"{self.in_channels}->{self.out_channels}"
        return " ".join([*words, channels, f"@{self.size}"])


@dataclass(frozen=True)
class Linear:
    """A linear layer."""

    in_features: int
    out_features: int

    batches = (1, 16, 128)
    kind = "linear"

    @property
    def weight_shape(self) -> Tuple[int, ...]:
        return (self.out_features, self.in_features)

    @property
    def name(self) -> str:
        return f"linear {self.in_features}->{self.out_features}"


Layer = Union[Conv, Linear]

LAYERS: Tuple[Layer, ...] = (
    Conv(64, 64, 3, 56),
    Conv(128, 128, 3, 28),
    Conv(256, 256, 3, 14),
    Conv(512, 512, 3, 7),
    Conv(128, 128, 3, 28, dilation=2),
    Conv(67, 61, 3, 45),  # nothing is a multiple of a vector
    Conv(128, 128, 3, 56, stride=2),
    Conv(100, 150, 3, 27, stride=2),
    Conv(256, 64, 1, 56),
    Conv(512, 128, 1, 28),
    Conv(1024, 256, 1, 14),
    Conv(2048, 512, 1, 7),
    Conv(100, 50, 1, 27),
    Conv(3, 64, 7, 224, stride=2),
    Conv(1, 32, 5, 28),
    Conv(32, 64, 5, 14),
    Conv(30, 50, 5, 13),
    Conv(256, 256, 3, 28, groups=256),
    Conv(256, 256, 3, 56, stride=2, groups=256),
    Conv(960, 960, 3, 7, groups=960),
    Conv(240, 240, 5, 14, groups=240),
    Conv(96, 96, 7, 56, groups=96),
    Linear(512, 1000),
    Linear(3136, 2048),
    Linear(4096, 4096),
    Linear(1001, 517),
)

# `--quick`: one layer a class.
QUICK_LAYERS: Tuple[Layer, ...] = (
    Conv(256, 256, 3, 14),
    Conv(128, 128, 3, 56, stride=2),
    Conv(512, 128, 1, 28),
    Conv(32, 64, 5, 14),
    Conv(256, 256, 3, 28, groups=256),
    Linear(3136, 2048),
)
QUICK_SPARSITIES = (0.5, 0.8, 0.9, 0.99)

# What the kernels aim at: speed-up over dense by sparsity, for (what, class, batch). A batch that is not here has none.
_CONV_BATCHES = {0.5: 1.2, 0.8: 2.8, 0.9: 4.5, 0.95: 7, 0.99: 15}
TARGETS: Dict[Tuple[str, str, int], Dict[float, float]] = {
    ("forward", "3x3", 1): {0.5: 1.4, 0.8: 3.0, 0.9: 5, 0.95: 8.5, 0.99: 15},
    ("forward", "3x3", 16): _CONV_BATCHES,
    ("forward", "3x3 stride 2", 1): {0.5: 1.3, 0.8: 2.6, 0.9: 4, 0.95: 6, 0.99: 10},
    ("forward", "1x1", 1): {0.5: 1.5, 0.8: 2.8, 0.9: 4, 0.95: 5.5, 0.99: 10},
    ("forward", "5x5 and 7x7", 1): {0.5: 2.2, 0.8: 4.8, 0.9: 8, 0.95: 13, 0.99: 23},
    ("forward", "depthwise", 1): {0.5: 1.0},
    ("forward", "linear", 1): {0.5: 1.8, 0.8: 4, 0.9: 6.5, 0.95: 12, 0.99: 50},
    ("forward", "linear", 128): {0.5: 1.2, 0.8: 2.5, 0.9: 4.3, 0.95: 6, 0.99: 12},
    ("training", "3x3", 1): {0.5: 1.1, 0.8: 2.4, 0.9: 4, 0.95: 6},
}
