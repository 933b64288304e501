"""Max pooling for inference, along one axis after the other."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor, nn

__all__ = ["SeparableMaxPool2d"]


class SeparableMaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d as maxima of rows, then of columns: the same values, several times faster where channels are planes.

    PyTorch's own kernel is vectorised for channels_last images only. What this form does not cover (other layouts and
    devices, indices, ceil_mode, dilation, integers, gradients, compilation) is left to it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width) or without the batch -> the same with pooled sizes."""
        if not self._covers(input):
            return super().forward(input)
        for axis, (kernel, stride, padding) in zip((-2, -1), zip(*map(_pair, self._sizes()))):
            input = _max_along(input, axis, kernel, stride, padding)
        return input

    def _sizes(self) -> Tuple[object, object, object]:
        return self.kernel_size, self.stride, self.padding

    def _covers(self, input: Tensor) -> bool:
        if self.return_indices or self.ceil_mode or _pair(self.dilation) != (1, 1) or torch.compiler.is_compiling():
            return False
        if input.dim() not in (3, 4) or not input.is_floating_point() or input.device.type != "cpu":
            return False
        if not input.is_contiguous() or (torch.is_grad_enabled() and input.requires_grad):
            return False
        return all(
            _covered_by_two_taps(size, kernel, stride, padding)
            for size, kernel, stride, padding in zip(input.shape[-2:], *map(_pair, self._sizes()))
        )


def _pair(size: object) -> Tuple[int, int]:
    first, second = size if isinstance(size, tuple) else (size, size)
    return int(first), int(second)


def _outputs(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _covered_by_two_taps(size: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether two neighbouring taps, from `padding` on, lie inside the axis for every output."""
    count = _outputs(size, kernel, stride, padding)
    return 0 <= padding <= min(kernel // 2, kernel - 2) and count >= 1 and (count - 1) * stride + 1 < size


def _max_along(input: Tensor, axis: int, kernel: int, stride: int, padding: int) -> Tensor:
    size = input.shape[axis]
    count = _outputs(size, kernel, stride, padding)

    def tap(k: int, first: int, end: int) -> Tensor:
        """What tap k reads for the outputs from `first` to before `end`."""
        begin = first * stride + k - padding
        index = slice(begin, begin + (end - first - 1) * stride + 1, stride)
        return input[..., index, :] if axis == -2 else input[..., index]

    # Tap `padding` reads 0, stride, ...: it and the next are inside for all outputs. The others may miss some.
    result = torch.maximum(tap(padding, 0, count), tap(padding + 1, 0, count))
    for k in range(kernel):
        if k in (padding, padding + 1):
            continue
        first = max(0, -((k - padding) // stride))
        end = min(count, (size - 1 - k + padding) // stride + 1)
        if first < end:
            part = result.narrow(axis, first, end - first)
            torch.maximum(part, tap(k, first, end), out=part)
    return result
