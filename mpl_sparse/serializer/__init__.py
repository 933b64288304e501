"""The file format mpl-sparse/1 (FORMAT.md): small, safe, never torn.

`save`, `load`, `dumps`, `loads` and `inspect`, which `mpl_sparse` has too, and what can be wrong with a file. Works
without torch on numpy arrays.
"""

from .errors import (
    BadHeader,
    BadPositions,
    BadValues,
    ChecksumMismatch,
    FileError,
    MissingLibrary,
    NoSuchTensor,
    NotOurs,
    TooLarge,
    Truncated,
    UnknownModel,
    UnknownPattern,
    UnsupportedVersion,
)
from .save_load import TensorInfo, dumps, inspect, load, loads, save

__all__ = [
    "BadHeader",
    "BadPositions",
    "BadValues",
    "ChecksumMismatch",
    "FileError",
    "MissingLibrary",
    "NoSuchTensor",
    "NotOurs",
    "TensorInfo",
    "TooLarge",
    "Truncated",
    "UnknownModel",
    "UnknownPattern",
    "UnsupportedVersion",
    "dumps",
    "inspect",
    "load",
    "loads",
    "save",
]
