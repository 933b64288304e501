"""The file format mpl-sparse/1 (FORMAT.md): small, safe, never torn.

`save`, `load`, `dumps`, `loads` and `inspect`, which `mpl_sparse` has too, and what can be wrong with a file; apart
from them `import_legacy`, for files of other programs. Works without torch on numpy arrays.
"""

from .errors import (
    BadArchive,
    BadHeader,
    BadPickle,
    BadPositions,
    BadValues,
    ChecksumMismatch,
    FileError,
    ForbiddenPickle,
    MissingLibrary,
    NoSuchTensor,
    NotOurs,
    TooLarge,
    Truncated,
    UnknownFormat,
    UnknownModel,
    UnknownPattern,
    UnsupportedVersion,
)
from .legacy import import_legacy
from .save_load import TensorInfo, dumps, inspect, load, loads, save

__all__ = [
    "BadArchive",
    "BadHeader",
    "BadPickle",
    "BadPositions",
    "BadValues",
    "ChecksumMismatch",
    "FileError",
    "ForbiddenPickle",
    "MissingLibrary",
    "NoSuchTensor",
    "NotOurs",
    "TensorInfo",
    "TooLarge",
    "Truncated",
    "UnknownFormat",
    "UnknownModel",
    "UnknownPattern",
    "UnsupportedVersion",
    "dumps",
    "import_legacy",
    "inspect",
    "load",
    "loads",
    "save",
]
