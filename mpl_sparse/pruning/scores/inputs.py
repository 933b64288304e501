"""What the layers of a model see: statistics of their inputs over some batches."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn import DenseConv2d, SparseConv2d
from .batches import Run
from .running import run_on

__all__ = ["check_finite", "groups_of", "input_gram", "square_sums", "watch_inputs"]


def watch_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], data: Iterable[Any], run: Run, see: Callable[[str, Tensor], None]
) -> None:
    """Run the model on all batches; `see(name, input)` for each call of each of `layers`."""
    handles = [layer.register_forward_pre_hook(_hook(name, see), with_kwargs=True) for name, layer in layers.items()]
    try:
        run_on(model, data, run)
    finally:
        for handle in handles:
            handle.remove()


def check_finite(name: str, sums: Tensor) -> Tensor:
    """`sums` of squares and products of a layer's inputs themselves; ValueError if an input was NaN or infinite."""
    if not sums.isfinite().all():
        raise ValueError(f"data must give finite inputs to every layer, got NaN or infinity at the layer {name!r}")
    return sums


def _hook(name: str, see: Callable[[str, Tensor], None]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, arguments: Any, keywords: Any) -> None:
        see(name, arguments[0] if arguments else keywords["input"])

    return hook


def groups_of(layer: Any) -> int:
    """The number of groups of a convolution; a linear layer is one."""
    return layer.groups if _is_conv(layer) else 1


def square_sums(layer: Any, input: Tensor) -> Tensor:
    """For each input that a weight of one output sees, the sum of its squares over all samples and positions.

    Shape:
        input as the layer takes it; result (groups, cols), float64, cols = in_features, or in_channels / groups *
        kernel_height * kernel_width in the order of the weight.
    """
    if not _is_conv(layer):
        return input.reshape(-1, input.shape[-1]).double().square().sum(0).unsqueeze(0)
    padded = _padded(layer, input).double().square()
    kernel_height, kernel_width = layer.kernel_size
    out_height, out_width = _out_sizes(layer, padded)
    sums = padded.new_zeros(padded.shape[1], kernel_height, kernel_width)
    for y in range(kernel_height):  # tap by tap: an unfolded input would be kernel_height * kernel_width times as large
        for x in range(kernel_width):
            rows = slice(y * layer.dilation[0], y * layer.dilation[0] + (out_height - 1) * layer.stride[0] + 1)
            columns = slice(x * layer.dilation[1], x * layer.dilation[1] + (out_width - 1) * layer.stride[1] + 1)
            seen = padded[:, :, rows, columns][:, :, :: layer.stride[0], :: layer.stride[1]]
            sums[:, y, x] = seen.sum((0, 2, 3))
    return sums.reshape(layer.groups, -1)


def input_gram(layer: Any, input: Tensor) -> Tensor:
    """X X^T for each group, X (cols, samples * positions) the inputs that the weights of one output see.

    Shape:
        input as the layer takes it; result (groups, cols, cols), float64; cols as in `square_sums`.
    """
    if not _is_conv(layer):
        rows = input.reshape(-1, input.shape[-1]).double()
        return (rows.T @ rows).unsqueeze(0)
    cols = layer.weight_shape[1:].numel()
    gram = torch.zeros(layer.groups, cols, cols, dtype=torch.float64)
    for image in _padded(layer, input).double():  # one by one: an unfolded batch would not fit
        for group, channels in enumerate(_split(image, layer.groups)):
            patches = F.unfold(channels.unsqueeze(0), layer.kernel_size, layer.dilation, 0, layer.stride)[0]
            gram[group].addmm_(patches, patches.T)
    return gram


def _is_conv(layer: nn.Module) -> bool:
    return isinstance(layer, (DenseConv2d, SparseConv2d))


def _split(image: Tensor, groups: int) -> Iterator[Tensor]:
    return iter(image.chunk(groups))


def _padded(layer: Any, input: Tensor) -> Tensor:
    """(batch, channels, height, width), as the kernel sees it."""
    images = input if input.dim() == 4 else input.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(images, layer._reversed_padding_repeated_twice, mode)


def _out_sizes(layer: Any, padded: Tensor) -> Iterator[int]:
    sizes = zip(padded.shape[2:], layer.kernel_size, layer.dilation, layer.stride)
    return ((size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, stride in sizes)
