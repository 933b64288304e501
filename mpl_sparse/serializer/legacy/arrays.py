"""numpy's arrays and scalars in pickles."""

from __future__ import annotations

import math
from typing import Any, Tuple

import numpy as np

from ..dtypes import DTYPES
from ..errors import BadPickle, BadValues, FileError
from ..tensors import Content
from .stream import Call, Global, in_protocol_2
from .strided import are_extents

__all__ = ["ARRAYS", "array_content"]

_SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_RECONSTRUCT = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}  # protocol 5
_CLASSES = {"numpy.ndarray", "numpy.dtype"}

ARRAYS = {*_SCALARS, *_RECONSTRUCT, *_FROM_BUFFER, *_CLASSES}

_DTYPES = {np.dtype(dtype.numpy).str[1:]: name for name, dtype in DTYPES.items() if dtype.numpy}


def array_content(node: Call) -> Content:
    """The content of the array or scalar that a call makes.

    Raises:
        BadPickle: it makes none, or one of another size than its bytes.
        FileError: elements that are no numbers, or not little-endian.
    """
    try:
        if node.function in _SCALARS:
            dtype, data = node.arguments
            return _content("scalar", dtype, (), data)
        if node.function in _FROM_BUFFER:
            data, dtype, shape, order = node.arguments
            return _content("dense", dtype, shape, data, in_columns=order == "F")
        if node.function in _RECONSTRUCT and node.arguments[:1] == (Global("numpy.ndarray"),):
            _version, shape, dtype, in_columns, data = node.state
            return _content("dense", dtype, shape, data, in_columns=in_columns is True)
    except (TypeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
    raise BadPickle(f"{node.function} has other arguments")


def _content(form: str, dtype: Any, shape: Any, data: Any, in_columns: bool = False) -> Content:
    name = _dtype(dtype)
    data = in_protocol_2(data)
    if not are_extents(shape) or type(data) not in (bytes, memoryview):
        raise BadPickle(f"an array of {name} is made of a {type(data).__name__}")
    if math.prod(shape) * DTYPES[name].itemsize != len(data):
        raise BadPickle(f"an array of shape {shape} and {name} has {len(data)} bytes")
    bits = np.frombuffer(data, np.uint8).view(DTYPES[name].bits) if len(data) else np.empty(0, DTYPES[name].bits)
    if name == "BOOL" and bits.size and int(bits.max()) > 1:
        raise BadValues("a bool is neither 0 nor 1")
    if in_columns:
        bits = np.ascontiguousarray(bits.reshape(shape[::-1]).T).reshape(-1)
    return Content(form, "numpy", name, shape, None, bits)


def _dtype(node: Any) -> str:
    arguments: Tuple[Any, ...] = node.arguments if type(node) is Call and node.function == "numpy.dtype" else ()
    told = arguments[0] if arguments and type(arguments[0]) is str else ""
    name = _DTYPES.get(told)
    if name is None:
        raise FileError(f"an array has elements of type {told[:20]!r}, which are not supported")
    if type(node.state) is tuple and node.state[1:2] == (">",):
        raise FileError("an array was written on a big-endian machine, which is not supported")
    return name
