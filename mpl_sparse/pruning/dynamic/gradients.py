"""The gradient of a layer's loss at all positions of its weight, pruned ones too, in blocks of rows.

A sparse layer's backward computes the gradient at its remaining weights only. What growth needs besides follows from
the layer's input and the gradient of its output: they are kept for one forward and backward, and the dense gradient is
made from them a few rows at a time.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn import DenseConv2d, Prunable, SparseConv2d, prunable_layers

__all__ = ["BLOCK_BYTES", "GrowthGradients", "growth_gradients", "is_trained", "movable_layers"]

BLOCK_BYTES = 2**20  # to choose from a block takes some ten times as much


class GrowthGradients:
    """Keeps what the dense gradients of prunable layers are made from, between :meth:`arm` and :meth:`disarm`.

    Each call of a layer whose backward runs in that time adds its input and the gradient of its output, so that a layer
    called several times (shared, or at each step of an LSTM) has the sum, as `.grad` has; calls while its weight
    requires no gradient do not count. Memory: these two tensors for each call, until :meth:`clear`. An input that no
    operation made, such as the data, is copied: one may write the next batch into it. Copies and pickles of the model
    do not record.

    What torch.autograd.grad differentiates is recorded as well, whereas gradients of gradients (as of a gradient
    penalty) are not: there it differs from `.grad`.

    What records are forward hooks of the layers. While they are there, an LSTM calls its recurrent layer at every step.
    torch.compile leaves out hooks that come later: run the model itself.

    Raises:
        TypeError: one of `layers`, by name, is not prunable.
        ValueError: `fuse` has made an activation a part of one of them, or `block_bytes` is not positive.
    """

    def __init__(self, layers: Dict[str, Any], block_bytes: int = BLOCK_BYTES) -> None:
        for name, layer in layers.items():
            if not isinstance(layer, Prunable):
                raise TypeError(f"layers must be prunable, got {type(layer).__name__} for {name!r}")
            activation = getattr(layer, "activation", "none")
            if activation != "none":
                raise ValueError(
                    f"model: its layer {name!r} has a fused activation ({activation}), so the gradient of its "
                    "weight is not to be had: take the model that was given to fuse"
                )
        if not isinstance(block_bytes, int) or isinstance(block_bytes, bool) or block_bytes < 1:
            raise ValueError(f"block_bytes must be a positive integer, got {block_bytes!r}")
        self.layers = layers
        self.block_bytes = block_bytes
        self._calls: Dict[str, List[_Call]] = {name: [] for name in layers}
        self._hooks: List[Any] = []

    def arm(self) -> None:
        """Record from now on, from nothing. Nothing changes if it records already."""
        if not self._hooks:
            self.clear()
            for name, layer in self.layers.items():
                record = _Recorder(layer, self._calls[name])
                # before the user's hooks, which may change the output
                self._hooks.append(layer.register_forward_hook(record, prepend=True, with_kwargs=True))

    @property
    def is_armed(self) -> bool:
        """Whether it records."""
        return bool(self._hooks)

    def disarm(self) -> None:
        """Record no more; what is recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def clear(self) -> None:
        """Forget what is recorded."""
        for calls in self._calls.values():
            calls.clear()

    def calls(self, name: str) -> int:
        """How many calls of the layer are recorded."""
        return len(self._found(name))

    def blocks(self, name: str) -> Iterator[Tuple[range, Tensor]]:
        """The gradient at all positions of the weight of the layer `name`, zeros if it was not called.

        Yields:
            The rows, and their gradient (rows, cols), cols being the product of the weight's dimensions but the first:
            in the order of the rows, all of them once. float64 for a float64 layer, float32 otherwise; at most
            `block_bytes` at a time, but at least one row.

        Raises:
            KeyError: there is no such layer.
        """
        calls = self._found(name)
        layer = self.layers[name]
        rows, cols = layer.weight_shape[0], layer.weight_shape[1:].numel()
        dtype = torch.float64 if layer.remaining_weight().dtype == torch.float64 else torch.float32
        most = max(1, self.block_bytes // max(1, cols * dtype.itemsize))
        if isinstance(layer, (DenseConv2d, SparseConv2d)):
            return _conv2d_blocks(layer, calls, most, dtype)
        return _linear_blocks(calls, rows, cols, most, dtype)

    def _found(self, name: str) -> List[_Call]:
        if name not in self._calls:
            raise KeyError(f"no layer {name!r} among {sorted(self._calls)}")
        return self._calls[name]


@contextlib.contextmanager
def growth_gradients(model: nn.Module, block_bytes: int = BLOCK_BYTES) -> Iterator[GrowthGradients]:
    """The dense gradients of `model`'s prunable layers in the backwards that run inside the `with` block::

        with growth_gradients(model) as gradients:
            loss_function(model(input), target).backward()
        for name in gradients.layers:
            for rows, block in gradients.blocks(name):
                ...  # block: (len(rows), cols)

    The layers may be masked or sparse; those whose weight requires no gradient are left out. See
    :class:`GrowthGradients`.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: `fuse` has made an activation a part of a layer, or `block_bytes` is not positive.
    """
    layers = {name: layer for name, layer in movable_layers(model).items() if is_trained(layer)}
    gradients = GrowthGradients(layers, block_bytes)
    gradients.arm()
    try:
        yield gradients
    finally:
        gradients.disarm()


def movable_layers(model: nn.Module) -> Dict[str, Any]:
    """The prunable layers of `model` by name, but for frozen ones that `fuse` has given an activation: the gradient of
    their weight is never to be had. TypeError if it is no nn.Module."""
    return {
        name: layer
        for name, layer in prunable_layers(model)
        if is_trained(layer) or getattr(layer, "activation", "none") == "none"
    }


def is_trained(layer: Any) -> bool:
    """Whether the layer's weight requires a gradient now."""
    return weight_of(layer).requires_grad


def weight_of(layer: Any) -> nn.Parameter:
    """The parameter that holds the layer's weights: `values` of a sparse layer, `weight` of a masked one."""
    return layer._parameters["values" if "values" in layer._parameters else "weight"]


class _Call(NamedTuple):
    input: Tensor
    grad_output: Tensor


class _Recorder:
    """A forward hook of one layer. A copy that runs in another layer takes itself away there."""

    def __init__(self, layer: Optional[nn.Module] = None, calls: Optional[List[_Call]] = None) -> None:
        self._layer = (lambda: None) if layer is None else weakref.ref(layer)
        self._calls = calls

    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: Dict[str, Any], output: Any) -> None:
        if module is not self._layer():
            for key, hook in list(module._forward_hooks.items()):
                if hook is self:
                    del module._forward_hooks[key]
                    module._forward_hooks_with_kwargs.pop(key, None)
            return
        if torch.is_grad_enabled() and output.requires_grad and is_trained(module):
            input = args[0] if args else kwargs["input"]
            is_data, input = input.grad_fn is None, input.detach()
            calls: Any = self._calls

            # of the output as it is now: torch keeps to that where a relu in place follows
            def keep(grad_output: Tensor) -> None:
                calls.append(_Call(input.clone() if is_data else input, grad_output.detach()))

            output.register_hook(keep)

    def __deepcopy__(self, memo: Any) -> _Recorder:
        return self

    def __reduce__(self) -> Tuple[Any, ...]:
        return _Recorder, ()


def _linear_blocks(
    calls: List[_Call], rows: int, cols: int, most: int, dtype: torch.dtype
) -> Iterator[Tuple[range, Tensor]]:
    inputs = _joined([call.input.reshape(-1, cols).to(dtype) for call in calls], cols, dtype)
    grads = _joined([call.grad_output.reshape(-1, rows).to(dtype) for call in calls], rows, dtype)
    for start in range(0, rows, most):
        block = range(start, min(start + most, rows))
        yield block, grads[:, block.start : block.stop].t() @ inputs


def _joined(matrices: List[Tensor], width: int, dtype: torch.dtype) -> Tensor:
    if not matrices:
        return torch.zeros(0, width, dtype=dtype, device="cpu")
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _conv2d_blocks(layer: Any, calls: List[_Call], most: int, dtype: torch.dtype) -> Iterator[Tuple[range, Tensor]]:
    images = [(_padded(layer, call.input).to(dtype), _batched(call.grad_output).to(dtype)) for call in calls]
    out_channels, in_channels, kernel_height, kernel_width = layer.weight_shape
    per_group = out_channels // layer.groups
    for block in _blocks_of_groups(out_channels, per_group, most):
        groups = range(block.start // per_group, -(-block.stop // per_group))
        shape = len(block), in_channels, kernel_height, kernel_width
        gradient = torch.zeros(shape, dtype=dtype, device=images[0][0].device if images else "cpu")
        for input, grad_output in images:
            if input.shape[0] and gradient.numel():
                gradient += torch.ops.aten.convolution_backward(
                    grad_output[:, block.start : block.stop],
                    input[:, groups.start * in_channels : groups.stop * in_channels],
                    gradient,  # for its shape
                    None,
                    layer.stride,
                    (0, 0),
                    layer.dilation,
                    False,
                    (0, 0),
                    len(groups),
                    (False, True, False),
                )[1]
        yield block, gradient.reshape(len(block), -1)


def _blocks_of_groups(rows: int, per_group: int, most: int) -> Iterator[range]:
    """Blocks of at most `most` rows: some whole groups, or a part of one."""
    step = most // per_group * per_group if most >= per_group else most
    start = 0
    while start < rows:
        stop = min(start + step, rows)
        if most < per_group:
            stop = min(stop, (start // per_group + 1) * per_group)
        yield range(start, stop)
        start = stop


def _padded(layer: Any, input: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    sizes = layer._reversed_padding_repeated_twice  # left, right, top, bottom
    return _batched(F.pad(input, sizes, mode) if any(sizes) else input)


def _batched(images: Tensor) -> Tensor:
    return images if images.dim() == 4 else images.unsqueeze(0)
