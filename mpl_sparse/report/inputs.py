"""What a summary runs a model on: given inputs, or inputs of a given size."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from torch import nn

__all__ = ["Inputs", "given_inputs", "inputs_of_size"]


class Inputs(NamedTuple):
    """The arguments of one forward, and how the caller named them."""

    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]
    described: str


def inputs_of_size(model: nn.Module, input_size: Any) -> Inputs:
    """Normally distributed inputs, in the dtype and on the device of the model's first floating-point tensor.

    They come from a generator of their own, seeded alike each time.

    Args:
        input_size: one size, or a list or tuple of sizes; batch included.

    Raises:
        TypeError: `input_size` is not made of integers.
        ValueError: a size is empty or has an entry below 1.
    """
    sizes = _checked_sizes(input_size)
    tensors = itertools.chain(model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0, device="cpu"))
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(size, generator=generator, device="cpu").to(like.device, like.dtype) for size in sizes)
    return Inputs(args, {}, f"input_size={input_size!r} ({like.dtype} on {like.device})")


def given_inputs(example_inputs: Any) -> Inputs:
    """A tuple or list holds the positional arguments, a dict those by name; anything else is the one argument."""
    if isinstance(example_inputs, Mapping):
        return Inputs((), dict(example_inputs), "example_inputs")
    # by type: a PackedSequence is a tuple too, and one argument
    args = tuple(example_inputs) if type(example_inputs) in (tuple, list) else (example_inputs,)
    return Inputs(args, {}, "example_inputs")


def _checked_sizes(input_size: Any) -> List[Tuple[int, ...]]:
    error = f"input_size must be a tuple of integers, batch included, or a list of such tuples, got {input_size!r}"
    if not isinstance(input_size, (tuple, list)):
        raise TypeError(error)
    several = any(isinstance(each, (tuple, list)) for each in input_size)
    sizes = []
    for size in input_size if several else [input_size]:
        if not isinstance(size, (tuple, list)) or any(isinstance(each, bool) for each in size):
            raise TypeError(error)
        try:
            sizes.append(tuple(operator.index(each) for each in size))
        except TypeError:
            raise TypeError(error) from None
        if not size or min(sizes[-1]) < 1:
            raise ValueError(f"input_size must have entries, each at least 1, got {input_size!r}")
    return sizes
