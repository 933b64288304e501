"""What can be wrong with a file, each fault under its own name."""

from __future__ import annotations

from typing import Optional

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
    "TooLarge",
    "Truncated",
    "UnknownFormat",
    "UnknownModel",
    "UnknownPattern",
    "UnsupportedVersion",
]


class FileError(ValueError):
    """A file that cannot be read. `tensor` names the tensor at fault, or is None if it is the file as a whole."""

    def __init__(self, message: str, tensor: Optional[str] = None) -> None:
        super().__init__(message if tensor is None else f"tensor {tensor!r}: {message}")
        self.tensor = tensor


class NotOurs(FileError):
    """The file is no safetensors file, or one of another program."""


class Truncated(FileError):
    """The file is shorter, or longer, than its header says."""


class UnsupportedVersion(FileError):
    """The file needs a newer reader."""


class BadHeader(FileError):
    """The header is not what a writer writes: JSON, names, shapes, encodings, sizes."""


class ChecksumMismatch(FileError):
    """Bytes have changed since they were written."""


class BadPositions(FileError):
    """The positions of a tensor do not decode to as many as it has, in order, within its shape."""


class BadValues(FileError):
    """Compressed values do not decompress to as many bytes as they were, or a bool is neither 0 nor 1."""


class TooLarge(FileError):
    """The file makes more elements than `max_elements` allows."""


class NoSuchTensor(FileError):
    """The file has no tensor of a name that was asked for."""


class UnknownPattern(FileError):
    """The values belong to a pattern that is not among those given as `known`."""


class UnknownModel(FileError):
    """The file holds a model that cannot be made: none of that name and arguments, or it does not fit the state."""


class UnknownFormat(FileError):
    """`import_legacy` does not know files of this kind."""


class BadArchive(FileError):
    """The zip archive of a `torch.save`d file is none that torch writes: compressed members, sizes that lie."""


class BadPickle(FileError):
    """A pickle is damaged, or describes a tensor that cannot be."""


class ForbiddenPickle(FileError):
    """A pickle asks for a class or a function other than those of plain tensors. It was not called, nor imported."""


class MissingLibrary(FileError, ImportError):
    """Reading needs a library that is not installed, which the message names."""
