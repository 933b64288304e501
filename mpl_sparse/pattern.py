"""Pattern: the positions of a sparse weight, without its values."""

from __future__ import annotations

import hashlib
import importlib
import math
import operator
import sys
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from . import _core

__all__ = ["Pattern"]

INT32_MAX = 2**31 - 1

# requirements of np.require; numpy < 2.1 refuses to export a read-only array
CARRIED_BY_DLPACK: Any = ["ALIGNED"] if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else ["ALIGNED", "WRITEABLE"]


class Pattern:
    """Immutable positions of the weights that a sparse layer keeps, as rows of column indices (CSR).

    A weight of any rank >= 2 is seen as a matrix: its first dimension is the rows, the others, flattened in row-major
    order, are the columns. Make one with :meth:`from_mask`, :meth:`from_dense` or :meth:`from_csr`. The compiled core
    validates the positions once and caches its kernel plans with them, so share a pattern instead of making it twice.

    Patterns compare, hash and pickle by content; copies of one are the same object.
    """

    __slots__ = ("_handle", "_shape", "_library", "_transposed", "_id", "__weakref__")

    def __init__(self, shape: Tuple[int, ...], handle: _core.Pattern, library: str) -> None:
        self._shape = shape
        self._handle = handle
        self._library = library  # "numpy" or "torch": what to_mask() returns
        self._transposed: Optional[Pattern] = None
        self._id: Optional[str] = None

    @classmethod
    def from_mask(cls, mask: Any) -> Pattern:
        """The positions where `mask` is True.

        Args:
            mask: bool numpy array or torch CPU tensor of rank >= 2.

        Raises:
            TypeError: `mask` is not an array, or not bool.
            ValueError: its rank is below 2, it is not a dense CPU tensor, or it passes the int32 limits.
        """
        array, library = as_numpy("mask", mask)
        if array.dtype != np.bool_:
            raise TypeError(f"mask must be bool, got {array.dtype}")
        return cls._from_bool("mask", array, library)

    @classmethod
    def from_dense(cls, dense: Any) -> Pattern:
        """The positions where `dense` is not zero; NaN counts as not zero.

        Args:
            dense: numeric numpy array or torch CPU tensor of rank >= 2.

        Raises:
            TypeError: `dense` is not an array.
            ValueError: its rank is below 2, it is not a dense CPU tensor, or it passes the int32 limits.
        """
        check_array("dense", dense)
        array, library = as_numpy("dense", dense != 0)
        return cls._from_bool("dense", array, library)

    @classmethod
    def from_csr(cls, row_ptr: Any, col_idx: Any, shape: Sequence[int]) -> Pattern:
        """The positions given row by row, as in the CSR format.

        Args:
            row_ptr: integers (rows + 1,), from 0 to nnz: row r owns `col_idx[row_ptr[r]:row_ptr[r + 1]]`.
            col_idx: integers (nnz,), strictly increasing within a row, in [0, cols).
            shape: the shape of the weight, rank >= 2.

        Raises:
            TypeError: an array is not one of integers, or `shape` is not a sequence of integers.
            ValueError: the arrays do not describe a pattern of this shape.
        """
        full_shape = _checked_shape(shape)
        ptr, library = as_numpy("row_ptr", row_ptr)
        idx, _ = as_numpy("col_idx", col_idx)
        return cls._from_csr(_int32("row_ptr", ptr), _int32("col_idx", idx), full_shape, library)

    @classmethod
    def _from_bool(cls, name: str, array: np.ndarray, library: str) -> Pattern:
        if array.ndim < 2:
            raise ValueError(f"{name} must have at least 2 dimensions, got shape {array.shape}")
        shape = _checked_shape(array.shape)
        rows, cols = shape[0], math.prod(shape[1:])
        flat = np.flatnonzero(array)
        if flat.size > INT32_MAX:
            raise ValueError(f"{name} has {flat.size} nonzeros, more than int32 can count")
        row_ptr = np.searchsorted(flat, np.arange(rows + 1) * cols)
        col_idx = flat - np.repeat(np.arange(rows) * cols, np.diff(row_ptr))
        return cls._from_csr(row_ptr.astype(np.int32), col_idx.astype(np.int32), shape, library)

    @classmethod
    def _from_csr(cls, row_ptr: np.ndarray, col_idx: np.ndarray, shape: Tuple[int, ...], library: str) -> Pattern:
        if row_ptr.shape != (shape[0] + 1,):
            raise ValueError(f"row_ptr must have shape ({shape[0] + 1},) for {shape[0]} rows, got {row_ptr.shape}")
        if col_idx.ndim != 1:
            raise ValueError(f"col_idx must have 1 dimension, got shape {col_idx.shape}")
        arrays = (np.require(array, np.int32, [*CARRIED_BY_DLPACK, "C_CONTIGUOUS"]) for array in (row_ptr, col_idx))
        return cls(shape, _core.Pattern(shape[0], math.prod(shape[1:]), *arrays), library)

    @property
    def handle(self) -> _core.Pattern:
        """The compiled core's own object, which the kernels take."""
        return self._handle

    @property
    def shape(self) -> Tuple[int, ...]:
        """The full shape of the weight."""
        return self._shape

    @property
    def rows(self) -> int:
        """The first dimension of the shape."""
        return self._shape[0]

    @property
    def cols(self) -> int:
        """The product of the other dimensions."""
        return self._handle.cols

    @property
    def nnz(self) -> int:
        """The number of positions."""
        return self._handle.nnz

    @property
    def density(self) -> float:
        """nnz / (rows * cols); 0.0 for an empty shape."""
        numel = self.rows * self.cols
        return self.nnz / numel if numel else 0.0

    @property
    def row_ptr(self) -> np.ndarray:
        """Read-only int32 (rows + 1,): a new copy at each access, for the core shares its own with nobody."""
        return _read_only(self._handle.row_ptr())

    @property
    def col_idx(self) -> np.ndarray:
        """Read-only int32 (nnz,): a new copy at each access."""
        return _read_only(self._handle.col_idx())

    @property
    def id(self) -> str:
        """BLAKE2b-128 of shape, row_ptr and col_idx, in hexadecimal: the same content has the same id everywhere."""
        if self._id is None:
            digest = hashlib.blake2b(digest_size=16)
            digest.update(np.array([len(self._shape), *self._shape], "<i8").tobytes())
            digest.update(self.row_ptr.astype("<i4").tobytes())
            digest.update(self.col_idx.astype("<i4").tobytes())
            self._id = digest.hexdigest()
        return self._id

    def to_mask(self) -> Any:
        """A dense bool mask of `shape`: numpy or torch, as the pattern was made."""
        mask = np.zeros(self._shape, np.bool_)
        mask.reshape(-1)[self.flat_positions()] = True
        return mask if self._library == "numpy" else importlib.import_module(self._library).from_numpy(mask)

    def transpose(self) -> Pattern:
        """The pattern of the transposed matrix, of shape (cols, rows)."""
        if self._transposed is None:
            handle, _ = self._handle.transpose()
            self._transposed = Pattern((self.cols, self.rows), handle, self._library)
        return self._transposed

    def flat_positions(self) -> np.ndarray:
        """int64 (nnz,): row * cols + col of each position, increasing."""
        return np.repeat(np.arange(self.rows, dtype=np.int64) * self.cols, np.diff(self.row_ptr)) + self.col_idx

    def keep(self, kept: np.ndarray) -> Pattern:
        """The pattern of those positions where `kept`, bool (nnz,), is True.

        Raises:
            ValueError: `kept` has another shape or dtype.
        """
        kept = np.asarray(kept)
        if kept.shape != (self.nnz,) or kept.dtype != np.bool_:
            raise ValueError(f"kept must be bool ({self.nnz},), got {kept.dtype} {kept.shape}")
        before = np.concatenate([[0], np.cumsum(kept)])
        row_ptr = before[self.row_ptr].astype(np.int32)
        return self._from_csr(row_ptr, self.col_idx[kept], self._shape, self._library)

    def locate(self, other: Pattern) -> np.ndarray:
        """int64 (other.nnz,): where each position of `other` stands in this pattern, -1 where it does not.

        Raises:
            ValueError: the shapes differ.
        """
        if other.shape != self._shape:
            raise ValueError(f"other has shape {other.shape}, this pattern has {self._shape}")
        mine, wanted = self.flat_positions(), other.flat_positions()
        if not mine.size:
            return np.full(wanted.size, -1, np.int64)
        found = np.minimum(np.searchsorted(mine, wanted), mine.size - 1)
        return np.where(mine[found] == wanted, found, -1).astype(np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return self is other or (
            self._shape == other._shape
            and np.array_equal(self.row_ptr, other.row_ptr)
            and np.array_equal(self.col_idx, other.col_idx)
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Pattern(shape={self._shape}, nnz={self.nnz}, density={self.density:.4g})"

    def __copy__(self) -> Pattern:
        return self

    def __deepcopy__(self, memo: Any) -> Pattern:
        return self

    def __reduce__(self) -> Tuple[Any, ...]:
        return Pattern._from_csr, (self.row_ptr, self.col_idx, self._shape, self._library)


class _Exporter:
    """Lets np.from_dlpack read a capsule of the core."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> Tuple[int, int]:
        return 1, 0  # kDLCPU


def _read_only(capsule: Any) -> np.ndarray:
    array = np.from_dlpack(_Exporter(capsule))
    array.flags.writeable = False
    return array


def is_tensor(array: Any) -> bool:
    """Whether `array` is a torch tensor; never imports torch, for only who has imported it can make one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def check_array(name: str, array: Any) -> None:
    """TypeError unless `array` is a numpy array or a torch tensor; ValueError if it is not dense on the CPU."""
    if is_tensor(array):
        if array.device.type != "cpu" or str(array.layout) != "torch.strided":
            raise ValueError(f"{name} must be a dense CPU tensor, got {array.layout} on {array.device}")
    elif not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array or a torch tensor, got {type(array).__name__}")


def as_numpy(name: str, array: Any) -> Tuple[np.ndarray, str]:
    """`array` as a numpy array that shares its memory, and the library it came from ("numpy" or "torch")."""
    check_array(name, array)
    return (array.detach().numpy(), "torch") if is_tensor(array) else (np.asarray(array), "numpy")


def _int32(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > INT32_MAX):
        raise ValueError(f"{name} must lie in [0, {INT32_MAX}], got {array.min()} to {array.max()}")
    return array.astype(np.int32, copy=False)


def _checked_shape(shape: Sequence[int]) -> Tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise TypeError(f"shape must be a sequence of integers, got {shape!r}") from None
    if len(sizes) < 2:
        raise ValueError(f"shape must have at least 2 dimensions, got {sizes}")
    if min(sizes) < 0 or max(sizes[0], math.prod(sizes[1:])) > INT32_MAX:
        raise ValueError(f"shape must have rows and columns in [0, {INT32_MAX}], got {sizes}")
    return sizes
