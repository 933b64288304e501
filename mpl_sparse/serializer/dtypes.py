"""Element types, and tensors as their bits: a 1-D array of unsigned integers as wide as an element, of either library.

Bits are what round trips compare: -0.0 is not 0.0, and a NaN keeps its payload.
"""

from __future__ import annotations

import sys
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from .errors import FileError

__all__ = ["DTYPES", "Dtype", "as_bits", "from_bits", "is_floating", "narrowed", "nonzero", "unsigned_zeros", "widened"]


class Dtype(NamedTuple):
    """An element type: its names in a safetensors file, in numpy ("" if there is none) and in torch, and its bits.

    A complex number is stored as two real ones, since few readers of safetensors know complex types.
    """

    stored: str
    numpy: str
    torch: str
    bits: str
    parts: Tuple[int, ...] = ()

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.bits).itemsize


DTYPES: Dict[str, Dtype] = {
    "BOOL": Dtype("BOOL", "bool", "bool", "u1"),
    "U8": Dtype("U8", "uint8", "uint8", "u1"),
    "I8": Dtype("I8", "int8", "int8", "u1"),
    "U16": Dtype("U16", "uint16", "uint16", "<u2"),
    "I16": Dtype("I16", "int16", "int16", "<u2"),
    "U32": Dtype("U32", "uint32", "uint32", "<u4"),
    "I32": Dtype("I32", "int32", "int32", "<u4"),
    "U64": Dtype("U64", "uint64", "uint64", "<u8"),
    "I64": Dtype("I64", "int64", "int64", "<u8"),
    "F8_E4M3": Dtype("F8_E4M3", "", "float8_e4m3fn", "u1"),
    "F8_E5M2": Dtype("F8_E5M2", "", "float8_e5m2", "u1"),
    "F16": Dtype("F16", "float16", "float16", "<u2"),
    "BF16": Dtype("BF16", "", "bfloat16", "<u2"),
    "F32": Dtype("F32", "float32", "float32", "<u4"),
    "F64": Dtype("F64", "float64", "float64", "<u8"),
    "C64": Dtype("F32", "complex64", "complex64", "<u8", (2,)),
    "C128": Dtype("F64", "complex128", "complex128", "V16", (2,)),
}

CHUNK = 1 << 16  # elements at a time: what is made of them on the way takes no memory to speak of
MAX_NUMPY_RANK = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
_OF_NUMPY = {np.dtype(dtype.numpy): name for name, dtype in DTYPES.items() if dtype.numpy}
_OF_TORCH = {f"torch.{dtype.torch}": name for name, dtype in DTYPES.items()}


def as_bits(what: str, tensor: Any) -> Tuple[str, np.ndarray]:
    """(name of the dtype, bits) of a numpy array or a dense torch tensor; shares its memory where it can.

    Raises:
        TypeError: there is no such element type in the format; `what` says of what.
    """
    if isinstance(tensor, np.ndarray):
        name = _OF_NUMPY.get(tensor.dtype)
        if name is None or not tensor.dtype.isnative:
            raise TypeError(f"{what} has elements of type {tensor.dtype!r}, which the format does not have")
        return name, _checked(name, np.ascontiguousarray(tensor).reshape(-1).view(DTYPES[name].bits))
    name = _OF_TORCH.get(str(tensor.dtype))
    if name is None:
        raise TypeError(f"{what} has elements of type {tensor.dtype}, which the format does not have")
    torch: Any = sys.modules["torch"]
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if DTYPES[name].parts:
        return name, flat.numpy().view(DTYPES[name].bits)
    carrier = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[DTYPES[name].itemsize]
    return name, _checked(name, flat.view(carrier).numpy().view(DTYPES[name].bits))


def _checked(name: str, bits: np.ndarray) -> np.ndarray:
    """The bits, those of bools 0 or 1: a view of other elements as bools may have more."""
    if name == "BOOL" and bits.size and int(bits.max()) > 1:
        return (bits != 0).view(bits.dtype)
    return bits


def from_bits(name: str, bits: np.ndarray, shape: Tuple[int, ...], torch: Optional[Any]) -> Any:
    """The tensor of these bits, a torch tensor if `torch` is the module, else a numpy array. It owns the bits' memory.

    Without torch, bfloat16 becomes float32, which has all its numbers.

    Raises:
        FileError: the library has no such element type, or not so many dimensions.
    """
    dtype = DTYPES[name]
    if torch is None:
        if name == "BF16":
            bits, dtype = bits.astype("<u4") << np.uint32(16), DTYPES["F32"]
        if not dtype.numpy:
            raise FileError(f"numpy has no elements of type {name}: reading them needs PyTorch")
        if len(shape) > MAX_NUMPY_RANK:
            raise FileError(f"numpy has no arrays of {len(shape)} dimensions: reading them needs PyTorch")
        try:
            return bits.view(dtype.numpy).reshape(shape)
        except ValueError:  # too large without its axis of 0
            raise FileError(f"numpy has no arrays of shape {shape}: reading them needs PyTorch") from None
    if not hasattr(torch, dtype.torch):
        raise FileError(f"torch {torch.__version__} has no elements of type {name}")
    if dtype.parts:
        return torch.from_numpy(bits.view(dtype.numpy)).reshape(shape)
    carrier = {1: "u1", 2: "i2", 4: "i4", 8: "i8"}[dtype.itemsize]
    return torch.from_numpy(bits.view(carrier)).view(getattr(torch, dtype.torch)).reshape(shape)


def is_floating(name: str) -> bool:
    """Whether elements are real or complex floats: only they have gradients."""
    return "F" in name or name.startswith("C")


def nonzero(bits: np.ndarray) -> np.ndarray:
    """bool: whether an element has a bit that is not zero."""
    if bits.dtype.kind == "V":
        halves = bits.view("<u8") != 0
        return halves[::2] | halves[1::2]
    return bits != 0


def unsigned_zeros(name: str, bits: np.ndarray) -> np.ndarray:
    """The bits with 0.0 in the place of -0.0; those of a complex number part by part."""
    if not is_floating(name):
        return bits
    width = DTYPES[name].itemsize // (DTYPES[name].parts or (1,))[0]
    parts = bits.view(f"<u{width}")
    is_negative_zero = parts == 1 << (8 * width - 1)
    return np.where(is_negative_zero, 0, parts).astype(parts.dtype, copy=False).view(bits.dtype)


def narrowed(name: str, bits: np.ndarray, target: str) -> np.ndarray:
    """The bits of floats, F32 or F64, rounded to the nearest F16 or BF16; too large ones become infinite."""
    floats = bits.view(DTYPES[name].numpy)
    with np.errstate(over="ignore", invalid="ignore"):
        if target == "F16":
            return floats.astype("<f2").view("<u2")
        single = floats.astype("<f4").view("<u4")
    rounded = (single + np.uint32(0x7FFF) + (single >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    is_nan = (single & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, single >> np.uint32(16) | np.uint32(0x40), rounded).astype("<u2")


def widened(name: str, bits: np.ndarray, target: str) -> np.ndarray:
    """The bits of F16 or BF16 numbers as F32 or F64."""
    floats = np.empty(bits.size, DTYPES[target].numpy)
    for start in range(0, bits.size, CHUNK):
        part = bits[start : start + CHUNK]
        wide = part.view("<f2") if name == "F16" else (part.astype("<u4") << np.uint32(16)).view("<f4")
        floats[start : start + CHUNK] = wide
    return floats.view(DTYPES[target].bits)
