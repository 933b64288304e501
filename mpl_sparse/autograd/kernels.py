"""The core's kernels for torch tensors: allocate the result, hand the core DLPack capsules. No autograd, no checks.

A capsule does not tell that a tensor's negation is still to come (the imaginary part of a conjugate), so that is
resolved first. The core reads any strides, but for the values', which must be contiguous.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from .. import _core
from ..pattern import Pattern

CPU = torch.device("cpu")  # torch.set_default_device may name another


def memory_format(images: Tensor) -> torch.memory_format:
    """channels_last when `images` are laid out so and only so; contiguous otherwise."""
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def linear_forward(
    input: Tensor,
    values: Tensor,
    bias: Optional[Tensor],
    pattern: Pattern,
    activation: str = "none",
    output: Optional[Tensor] = None,
) -> Tensor:
    """(batch, cols) -> (batch, rows), in `output` if it is given; `activation` ("none" or "relu") is applied to what is
    stored."""
    if output is None:
        output = input.new_empty(input.shape[0], pattern.rows)
    _core.linear_forward(
        pattern.handle,
        to_dlpack(values.resolve_neg().contiguous()),
        to_dlpack(input.resolve_neg()),
        None if bias is None else to_dlpack(bias.resolve_neg()),
        to_dlpack(output),
        torch.get_num_threads(),
        activation,
    )
    return output


def linear_grad_input(
    grad_output: Tensor, values: Tensor, pattern: Pattern, grad_input: Optional[Tensor] = None
) -> Tensor:
    """(batch, rows) -> (batch, cols), in `grad_input` if it is given."""
    if grad_input is None:
        grad_input = grad_output.new_empty(grad_output.shape[0], pattern.cols)
    _core.linear_grad_input(
        pattern.handle,
        to_dlpack(values.resolve_neg().contiguous()),
        to_dlpack(grad_output.resolve_neg()),
        to_dlpack(grad_input),
        torch.get_num_threads(),
    )
    return grad_input


def linear_grad_values(input: Tensor, grad_output: Tensor, pattern: Pattern) -> Tensor:
    """(nnz,): the gradient at the nonzeros only."""
    grad_values = input.new_empty(pattern.nnz)
    _core.linear_grad_weight(
        pattern.handle,
        to_dlpack(input.resolve_neg()),
        to_dlpack(grad_output.resolve_neg()),
        to_dlpack(grad_values),
        torch.get_num_threads(),
    )
    return grad_values


def conv2d_forward(
    input: Tensor,
    values: Tensor,
    bias: Optional[Tensor],
    pattern: Pattern,
    geometry: _core.Conv2dGeometry,
    activation: str = "none",
) -> Tensor:
    """(batch, in_channels, ...) -> (batch, out_channels, out_height, out_width), in the input's memory format.

    `activation` ("none" or "relu") is applied to what is stored.
    """
    output = torch.empty(  # sizes one by one: torch reads a tuple of them half a microsecond slower
        input.shape[0],
        pattern.rows,
        geometry.out_height,
        geometry.out_width,
        dtype=input.dtype,
        device=CPU,
        memory_format=memory_format(input),
    )
    _core.conv2d_forward(
        pattern.handle,
        geometry,
        to_dlpack(values.resolve_neg().contiguous()),
        to_dlpack(input.resolve_neg()),
        None if bias is None else to_dlpack(bias.resolve_neg()),
        to_dlpack(output),
        torch.get_num_threads(),
        activation,
    )
    return output


def conv2d_grad_input(
    grad_output: Tensor,
    values: Tensor,
    pattern: Pattern,
    geometry: _core.Conv2dGeometry,
    input_shape: torch.Size,
) -> Tensor:
    """The gradient to the input, in grad_output's memory format."""
    grad_input = torch.empty(input_shape, dtype=grad_output.dtype, device=CPU, memory_format=memory_format(grad_output))
    _core.conv2d_grad_input(
        pattern.handle,
        geometry,
        to_dlpack(values.resolve_neg().contiguous()),
        to_dlpack(grad_output.resolve_neg()),
        to_dlpack(grad_input),
        torch.get_num_threads(),
    )
    return grad_input


def conv2d_grad_values(input: Tensor, grad_output: Tensor, pattern: Pattern, geometry: _core.Conv2dGeometry) -> Tensor:
    """(nnz,): the gradient at the nonzeros only."""
    grad_values = input.new_empty(pattern.nnz)
    _core.conv2d_grad_weight(
        pattern.handle,
        geometry,
        to_dlpack(input.resolve_neg()),
        to_dlpack(grad_output.resolve_neg()),
        to_dlpack(grad_values),
        torch.get_num_threads(),
    )
    return grad_values
