"""torch's storages, and tensors as views of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Tuple

import numpy as np

from ..dtypes import DTYPES, is_floating
from ..errors import BadPickle, BadValues, FileError
from ..positions import MAX_NUMEL
from ..record import MAX_RANK

__all__ = ["STORAGES", "Storage", "Strided", "are_extents", "dtype_named"]

# The dtype of each class of storages; "" if the tensor tells it.
STORAGES = {
    f"{module}.{kind}Storage": dtype
    for kind, dtype in {
        "Bool": "BOOL",
        "Byte": "U8",
        "Char": "I8",
        "Short": "I16",
        "Int": "I32",
        "Long": "I64",
        "Half": "F16",
        "BFloat16": "BF16",
        "Float": "F32",
        "Double": "F64",
        "ComplexFloat": "C64",
        "ComplexDouble": "C128",
        "Untyped": "",
    }.items()
    for module in ("torch", "torch.storage")
}
_BY_TORCH_NAME = {f"torch.{dtype.torch}": name for name, dtype in DTYPES.items()}


class Storage(NamedTuple):
    """uint8 `data` of elements of `dtype`; `key` is the storage's identity in its file."""

    key: Any
    dtype: str
    data: np.ndarray


class Strided(NamedTuple):
    """A dense tensor: strides and offset count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: Tuple[int, ...]
    stride: Tuple[int, ...]
    requires_grad: bool = False

    def checked(self) -> Strided:
        """Itself, once it is sure that no element lies outside of the storage.

        Raises:
            BadPickle: one does, or these are no sizes and strides.
        """
        sizes = are_extents(self.shape) and are_extents(self.stride) and are_extents((self.offset,))
        if not sizes or len(self.shape) != len(self.stride) or type(self.requires_grad) is not bool:
            raise BadPickle(f"a tensor has shape {_short(self.shape)} and strides {_short(self.stride)}")
        if self.requires_grad and not is_floating(self.dtype):
            raise BadPickle(f"a tensor of {self.dtype} cannot have a gradient")
        if self.storage.dtype not in ("", self.dtype):
            raise BadPickle(f"a tensor of {self.dtype} has a storage of {self.storage.dtype}")
        count = self.storage.data.size // DTYPES[self.dtype].itemsize
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride))
        if self.elements > MAX_NUMEL or (self.elements and last >= count):
            raise BadPickle(f"a tensor of shape {_short(self.shape)} is larger than its storage of {count} elements")
        return self

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def bits(self) -> np.ndarray:
        """Its bits in row-major order, 1-D; read-only, or memory of its own."""
        dtype = DTYPES[self.dtype]
        if not self.elements:
            return np.empty(0, dtype.bits)
        flat = self.storage.data[: self.storage.data.size // dtype.itemsize * dtype.itemsize].view(dtype.bits)
        strides = [step * dtype.itemsize if size > 1 else 0 for size, step in zip(self.shape, self.stride)]
        bits = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        bits = np.ascontiguousarray(bits).reshape(-1)
        if self.dtype == "BOOL" and int(bits.max()) > 1:
            raise BadValues("a bool is neither 0 nor 1")
        return bits

    def numbers(self) -> np.ndarray:
        """The elements as a numpy array of its shape."""
        dtype = DTYPES[self.dtype]
        if not dtype.numpy:
            raise BadPickle(f"positions are numbers of {self.dtype}")
        return self.bits().view(dtype.numpy).reshape(self.shape)


def are_extents(sizes: Any) -> bool:
    """Whether this is a tuple of integers of 0 to 2^62, no more than the axes of an array."""
    return (
        isinstance(sizes, tuple)
        and len(sizes) <= MAX_RANK
        and all(type(size) is int and 0 <= size <= MAX_NUMEL for size in sizes)
    )


def dtype_named(name: str) -> str:
    """The key in DTYPES of "torch.float32".

    Raises:
        FileError: there is none.
    """
    dtype = _BY_TORCH_NAME.get(name)
    if dtype is None:
        raise FileError(f"elements of type {name[:80]} are not supported")
    return dtype


def _short(sizes: Any) -> str:
    return repr(sizes)[:80] if isinstance(sizes, tuple) and len(sizes) <= MAX_RANK else type(sizes).__name__
