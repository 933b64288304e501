"""Tensors of both libraries as positions and bits, and back; and both as the arrays of a file."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..pattern import INT32_MAX, Pattern, is_tensor
from .dtypes import DTYPES, as_bits, from_bits, narrowed, nonzero, unsigned_zeros, widened
from .errors import BadPositions, BadValues, FileError, UnknownPattern
from .positions import CHUNK, FULL, MAX_NUMEL, Coding, Encoder, chunks
from .record import DENSE_FORMS, MAX_RANK, POSITIONS, Arrays, Record
from .values import compressed, decompressed

__all__ = [
    "Content",
    "Options",
    "Planned",
    "layer_content",
    "make",
    "naming",
    "pack",
    "read",
    "tensor_content",
    "unpack",
]

ARRAY_COST = 96  # bytes of the header that one more array takes, about
LAYOUTS = ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")


class Content(NamedTuple):
    """What a tensor holds. `form` and the following are those of `Record`; `positions` is None where all are stored,
    `bits` are the values, one for each position, None for a pattern."""

    form: str
    library: str
    dtype: str
    shape: Tuple[int, ...]
    positions: Optional[np.ndarray]
    bits: Optional[np.ndarray]
    requires_grad: bool = False
    index_dtype: str = ""


class Planned:
    """A tensor of a file, checked but not read yet. `elements` is how many a load makes."""

    __slots__ = ("_read", "elements", "name")

    def __init__(self, name: str, elements: int, read: Callable[[], Any]) -> None:
        self.name = name
        self.elements = elements
        self._read = read

    def read(self) -> Any:
        """Its content; a sparse torch tensor that has none, itself.

        Raises:
            FileError: the file has no such tensor after all; it names the tensor.
        """
        with naming(self.name):
            return self._read()


class Options(NamedTuple):
    """How to store tensors: see `save`. `dtype` is "", "F16" or "BF16"; with `unsigned_zeros` -0.0 is stored as 0.0 in
    dense tensors, which takes no room."""

    compress: bool = False
    dtype: str = ""
    known: Sequence[Pattern] = ()
    unsigned_zeros: bool = False


# ----- from objects -----


def tensor_content(what: str, tensor: Any) -> Optional[Content]:
    """The content of an array, a tensor, a Pattern or a pair of (Pattern, values).

    None for anything else, and for sparse tensors that are no sorted list of single positions.

    Raises:
        TypeError, ValueError: a tensor that the format does not have; `what` says which.
    """
    if isinstance(tensor, Content):
        return tensor
    if isinstance(tensor, Pattern):
        return Content("pattern", tensor._library, "BOOL", tensor.shape, tensor.flat_positions(), None)
    if type(tensor) is tuple:
        return _pair(what, tensor)
    if isinstance(tensor, np.generic):
        return _dense(what, np.asarray(tensor))._replace(form="scalar")
    if isinstance(tensor, np.ndarray):
        if type(tensor) not in (np.ndarray, np.memmap):
            raise TypeError(f"{what} is a {type(tensor).__name__}, a subclass of numpy's arrays: save a plain one")
        return _dense(what, tensor)
    return _torch_tensor(what, tensor) if is_tensor(tensor) else None


def _dense(what: str, tensor: Any, form: str = "dense") -> Content:
    dtype, bits = as_bits(what, tensor)
    library = "numpy" if isinstance(tensor, np.ndarray) else "torch"
    return Content(form, library, dtype, tuple(tensor.shape), None, bits, library == "torch" and tensor.requires_grad)


def _pair(what: str, pair: Tuple[Any, ...]) -> Optional[Content]:
    if len(pair) != 2 or not isinstance(pair[0], Pattern) or not (is_tensor(pair[1]) or type(pair[1]) is np.ndarray):
        return None
    pattern, values = pair
    content = tensor_content(what, values)
    if content is None or content.form != "dense" or content.shape != (pattern.nnz,):
        return None
    return content._replace(form="pair", shape=pattern.shape, positions=pattern.flat_positions())


def _torch_tensor(what: str, tensor: Any) -> Optional[Content]:
    torch: Any = sys.modules["torch"]
    is_parameter = type(tensor) is torch.nn.Parameter
    if type(tensor) is not torch.Tensor and not (is_parameter and tensor.layout == torch.strided):
        raise TypeError(f"{what} is a {tensor.layout} {type(tensor).__name__}: save a plain tensor")
    if tensor.is_nested or str(tensor.layout).rpartition(".")[2] not in LAYOUTS:
        raise TypeError(f"{what} is a nested tensor, or has a layout that the format does not have: {tensor.layout}")
    if tensor.is_meta:
        raise ValueError(f"{what} is on the meta device, where it has no values")
    if tensor.layout == torch.strided:
        return _dense(what, tensor, "parameter" if is_parameter else "dense")
    numel = 1
    for size in tensor.shape:
        numel *= size
    if numel > MAX_NUMEL or tensor.dense_dim() or len(tensor.shape) > MAX_RANK:
        return None
    if tensor.layout == torch.sparse_coo:
        if not tensor.is_coalesced() or not tensor.sparse_dim():
            return None
        positions = _coo_positions(tensor.detach()._indices().cpu().numpy(), tuple(tensor.shape))
        values, form, index = tensor.detach()._values(), "coo", ""
    elif tensor.layout == torch.sparse_csr and tensor.dim() == 2:
        row_ptr, col_idx, values = tensor.crow_indices(), tensor.col_indices(), tensor.detach().values()
        positions = _csr_positions(row_ptr.cpu().numpy(), col_idx.cpu().numpy(), tensor.shape[1])
        form, index = "csr", str(row_ptr.dtype).rpartition(".")[2]
    else:
        return None
    if positions is None:
        return None
    dtype, bits = as_bits(what, values)
    return Content(form, "torch", dtype, tuple(tensor.shape), positions, bits, tensor.requires_grad, index)


def _coo_positions(indices: np.ndarray, shape: Tuple[int, ...]) -> Optional[np.ndarray]:
    """int64 (nnz,): the positions in the flattened shape; None if they do not increase, or leave the shape."""
    if indices.size and any(axis.min() < 0 or axis.max() >= size for axis, size in zip(indices, shape)):
        return None
    positions = indices[0].astype(np.int64)
    for axis, size in zip(indices[1:], shape[1:]):
        positions *= size
        positions += axis
    return positions if _is_increasing(positions) else None


def _csr_positions(row_ptr: np.ndarray, col_idx: np.ndarray, cols: int) -> Optional[np.ndarray]:
    """int64 (nnz,): row * cols + col; None if this is no CSR with increasing columns."""
    counts: Any = np.diff(row_ptr.astype(np.int64))
    if row_ptr.size == 0 or row_ptr[0] != 0 or row_ptr[-1] != col_idx.size or (counts < 0).any():
        return None
    if col_idx.size and (col_idx.min() < 0 or col_idx.max() >= cols):
        return None
    positions = np.repeat(np.arange(counts.size, dtype=np.int64) * cols, counts)
    positions += col_idx
    return positions if _is_increasing(positions) else None


def _is_increasing(positions: np.ndarray) -> bool:
    return bool((positions[1:] > positions[:-1]).all())


def layer_content(
    what: str, values: Any, row_ptr: Any, col_idx: Any, candidates: Sequence[Pattern]
) -> Optional[Content]:
    """The content of a sparse layer's state; None if these are not its three tensors.

    A state_dict does not tell how many columns a weight has: they are those of the pattern among `candidates` that has
    these positions, else as many as are used.
    """
    contents = [_plain_content(what, tensor) for tensor in (row_ptr, col_idx, values)]
    if any(content is None or content.library != contents[0].library for content in contents):
        return None
    if any(content.dtype != "I32" or len(content.shape) != 1 for content in contents[:2]):
        return None
    ptr, idx = (content.bits.view(np.int32) for content in contents[:2])
    cols = int(idx.max()) + 1 if idx.size else 0
    for pattern in candidates:
        if np.array_equal(pattern.row_ptr, ptr) and np.array_equal(pattern.col_idx, idx):
            cols = pattern.cols
            break
    positions = _csr_positions(ptr, idx, cols)
    if positions is None or contents[2].shape != (positions.size,) or cols > INT32_MAX:
        return None
    return contents[2]._replace(form="layer", shape=(ptr.size - 1, cols), positions=positions)


def _plain_content(what: str, tensor: Any) -> Any:
    """The content of a dense tensor that stands for nothing but its elements, else None."""
    if isinstance(tensor, Planned):
        content = tensor.read()
        return (
            content if isinstance(content, Content) and content.form == "dense" and not content.requires_grad else None
        )
    if type(tensor) is not np.ndarray:
        torch = sys.modules.get("torch")
        if torch is None or type(tensor) is not torch.Tensor:
            return None
        if tensor.is_meta or tensor.layout != torch.strided or tensor.requires_grad:
            return None
    return _dense(what, tensor)


# ----- to arrays -----


def pack(name: str, content: Content, options: Options) -> Tuple[Record, Arrays]:
    """The record of a tensor and its arrays by the end of their names, as small as the format can."""
    stored, bits, positions, pattern = "", content.bits, content.positions, ""
    encoder = None
    if bits is not None and options.dtype and content.dtype in ("F32", "F64"):
        stored = options.dtype
        bits = narrowed(content.dtype, bits, stored)
    numel = _numel(content.shape)
    if content.form in DENSE_FORMS:
        assert bits is not None
        bits = unsigned_zeros(stored or content.dtype, bits) if options.unsigned_zeros else bits
        positions, encoder = _smallest_dense(bits, content.dtype)
        if positions is not None:
            bits = None if content.dtype == "BOOL" else bits[positions]
    elif positions is not None:
        pattern = _known_id(content, positions, options.known)
        encoder = None if pattern else Encoder(positions, numel)
    coding = Coding("ref") if pattern else encoder.coding if encoder else FULL
    fields = content._asdict()
    del fields["positions"], fields["bits"]
    nnz = numel if positions is None else positions.size
    record = Record(name=name, nnz=nnz, coding=coding, pattern=pattern, stored=stored, **fields)
    arrays: Arrays = {}
    if bits is not None:
        packed = compressed(bits) if options.compress and bits.size else bits
        if packed.nbytes < bits.nbytes:
            record = record._replace(zstd=True)
            bits = packed
        if bits.size or record.values_array == "":
            arrays[record.values_array] = bits
    if encoder is not None and encoder.nbytes:
        arrays[POSITIONS] = encoder.encode()
    return record, arrays


def _numel(shape: Tuple[int, ...]) -> int:
    numel = 1
    for size in shape:
        numel *= size
    return numel


def _smallest_dense(bits: np.ndarray, dtype: str) -> Tuple[Optional[np.ndarray], Optional[Encoder]]:
    """The positions to store of a dense tensor, and their encoder; (None, None) if all are stored."""
    if bits.nbytes <= ARRAY_COST:  # a checkpoint may have many tensors of a few elements
        return None, None
    is_stored = nonzero(bits)
    nnz = int(np.count_nonzero(is_stored))
    saved = bits.nbytes - (0 if dtype == "BOOL" else nnz * bits.itemsize + ARRAY_COST)
    if nnz < bits.size and saved > ARRAY_COST:
        positions = np.flatnonzero(is_stored).astype(np.int64, copy=False)
        encoder = Encoder(positions, bits.size)
        if encoder.nbytes + ARRAY_COST < saved:
            return positions, encoder
    return None, None


def _known_id(content: Content, positions: np.ndarray, known: Sequence[Pattern]) -> str:
    """The id of the known pattern that has these positions, or "". A layer's shape may be flattened."""
    for pattern in known:
        if pattern.nnz != positions.size or not _fits(content.form, content.shape, pattern):
            continue
        if np.array_equal(pattern.flat_positions(), positions):
            return pattern.id
    return ""


def _fits(form: str, shape: Tuple[int, ...], pattern: Pattern) -> bool:
    return shape == ((pattern.rows, pattern.cols) if form == "layer" else pattern.shape)


# ----- from arrays -----


def unpack(record: Record, arrays: Arrays, known: Dict[str, Pattern], torch: Optional[Any]) -> Any:
    """The tensor; a dict of values, row_ptr and col_idx for a sparse layer.

    `torch` is the module, or None: then every tensor is made for numpy, a sparse one as (Pattern, values).

    Raises:
        FileError: the arrays are not those of such a tensor.
    """
    library = torch if record.library == "torch" else None
    with naming(record.name):
        positions = _positions(record, arrays, known)
        content = _content(record, None, _values(record, arrays))
        if record.form in DENSE_FORMS:
            return _make_dense(_filled(content, record.numel, positions), library)
        assert positions is not None
        return _make_sparse(content, positions, record.nnz, library)


def read(record: Record, arrays: Arrays, known: Dict[str, Pattern]) -> Content:
    """The content of a tensor. Its bits may be the file's own memory.

    Raises:
        FileError: the arrays are not those of such a tensor.
    """
    with naming(record.name):
        positions = _positions(record, arrays, known)
        bits = _values(record, arrays)
        if record.form in DENSE_FORMS:
            return _filled(_content(record, None, bits), record.numel, positions)
        assert positions is not None
        all_positions, done = np.empty(record.nnz, np.int64), 0
        for chunk in positions:
            all_positions[done : done + chunk.size] = chunk
            done += chunk.size
        return _content(record, all_positions, bits)


def make(content: Content, torch: Optional[Any]) -> Any:
    """The tensor of this content, which owns the memory of its bits if they can be written.

    `torch` as for `unpack`.

    Raises:
        FileError: the library has no such tensors.
    """
    library = torch if content.library == "torch" else None
    if content.form in DENSE_FORMS:
        return _make_dense(content, library)
    assert content.positions is not None
    return _make_sparse(content, [content.positions], content.positions.size, library)


def _content(record: Record, positions: Optional[np.ndarray], bits: Optional[np.ndarray]) -> Content:
    fields = {name: getattr(record, name) for name in Content._fields if name not in ("positions", "bits")}
    return Content(positions=positions, bits=bits, **fields)


def _filled(content: Content, numel: int, positions: Optional[Iterable[np.ndarray]]) -> Content:
    """The content of a dense tensor with the bits of all elements; `positions` are those that are stored, or None."""
    if positions is None:
        return content
    bits, done = np.zeros(numel, DTYPES[content.dtype].bits), 0
    for chunk in positions:
        bits[chunk] = 1 if content.bits is None else content.bits[done : done + chunk.size]
        done += chunk.size
    return content._replace(bits=bits)


@contextlib.contextmanager
def naming(tensor: str) -> Iterator[None]:
    """Let a FileError from within name this tensor, if it names none."""
    try:
        yield
    except FileError as error:
        if error.tensor is None:
            raise type(error)(str(error), tensor) from None
        raise


def _positions(record: Record, arrays: Arrays, known: Dict[str, Pattern]) -> Optional[Iterable[np.ndarray]]:
    """The positions, chunk by chunk; None for a dense tensor that is stored whole."""
    if record.coding.kind == "ref":
        pattern = known.get(record.pattern)
        if pattern is None:
            raise UnknownPattern(f"its pattern {record.pattern} is not among those that are known")
        if pattern.nnz != record.nnz or not _fits(record.form, record.shape, pattern):
            raise BadPositions(f"it has shape {record.shape} and {record.nnz} nonzeros, its pattern is {pattern}")
        return [pattern.flat_positions()]
    if record.coding == FULL and record.form in DENSE_FORMS:
        return None
    packed = arrays.get(POSITIONS, np.empty(0, np.uint8))
    return chunks(packed, record.nnz, record.numel, record.coding)


def _values(record: Record, arrays: Arrays) -> Optional[np.ndarray]:
    """The values' bits. They may be the file's own memory."""
    if not record.has_values:
        return None
    dtype = DTYPES[record.stored_dtype]
    if not record.nnz:
        return np.empty(0, DTYPES[record.dtype].bits)
    array = arrays[record.values_array]
    bits = decompressed(array, record.nnz, dtype.bits) if record.zstd else array.view(dtype.bits)
    if record.stored:
        return widened(record.stored, bits, record.dtype)
    if record.dtype == "BOOL" and int(bits.max()) > 1:
        raise BadValues("a bool is neither 0 nor 1")
    return bits


def _make_dense(content: Content, torch: Any) -> Any:
    assert content.bits is not None
    tensor = from_bits(content.dtype, _own(content.bits), content.shape, torch)
    if torch is None:
        return tensor[()] if content.form == "scalar" else tensor
    if content.form == "parameter":
        return torch.nn.Parameter(tensor, requires_grad=content.requires_grad)
    return tensor.requires_grad_(content.requires_grad)


def _make_sparse(content: Content, positions: Iterable[np.ndarray], nnz: int, torch: Any) -> Any:
    shape, bits = content.shape, content.bits
    values: Any = None if bits is None else from_bits(content.dtype, _own(bits), (nnz,), torch)
    if content.form == "coo" and torch is not None:
        tensor = torch.sparse_coo_tensor(
            torch.from_numpy(_coo_indices(positions, nnz, shape)),
            values,
            shape,
            device="cpu",
            is_coalesced=True,
            check_invariants=False,
        )
        return tensor.requires_grad_(content.requires_grad)
    if len(shape) < 2:
        raise FileError(f"a sparse tensor of shape {shape} needs PyTorch: a Pattern has 2 dimensions or more")
    rows, cols = shape[0], _numel(shape[1:])
    if content.form == "csr" and torch is not None:
        arrays = map(torch.from_numpy, _csr_arrays(positions, nnz, rows, cols, content.index_dtype))
        tensor = torch.sparse_csr_tensor(*arrays, values, shape, device="cpu", check_invariants=False)
        return tensor.requires_grad_(content.requires_grad)
    if max(rows, cols, nnz) > INT32_MAX:
        raise FileError(f"a sparse tensor of shape {shape} needs PyTorch: it passes the int32 limits of a Pattern")
    row_ptr, col_idx = _csr_arrays(positions, nnz, rows, cols, "int32")
    if content.form == "layer":
        taken = (lambda array: array) if torch is None else torch.from_numpy
        return {"values": values, "row_ptr": taken(row_ptr), "col_idx": taken(col_idx)}
    library = "numpy" if torch is None else "torch"
    pattern = Pattern._from_csr(row_ptr, col_idx, shape, library=library)
    if content.form == "pattern":
        return pattern
    if torch is not None:
        values.requires_grad_(content.requires_grad)
    return pattern, values


def _own(bits: np.ndarray) -> np.ndarray:
    """The bits in memory of their own: the file's goes."""
    return bits if bits.flags.writeable else bits.copy()


def _coo_indices(positions: Iterable[np.ndarray], nnz: int, shape: Tuple[int, ...]) -> np.ndarray:
    """int64 (rank, nnz): the index of each position in each axis."""
    indices, done = np.empty((len(shape), nnz), np.int64), 0
    for rest in positions:
        end = done + rest.size
        for axis in range(len(shape) - 1, 0, -1):
            rest, indices[axis, done:end] = _divided(rest, shape[axis])
        indices[0, done:end] = rest
        done = end
    return indices


def _csr_arrays(
    positions: Iterable[np.ndarray], nnz: int, rows: int, cols: int, index: str
) -> Tuple[np.ndarray, np.ndarray]:
    """(row_ptr (rows + 1,), col_idx (nnz,)) of that dtype."""
    row_ptr, col_idx = np.zeros(rows + 1, index), np.empty(nnz, index)
    done = row = 0  # positions; rows of which the beginning is known
    for chunk in positions:
        row_of, col_idx[done : done + chunk.size] = _divided(chunk, cols)
        last = int(row_of[-1]) if chunk.size else 0
        while row < last:
            some = np.arange(row + 1, min(last, row + CHUNK) + 1, dtype=np.int64)
            row_ptr[some] = np.searchsorted(row_of, some) + done
            row = int(some[-1])
        done += chunk.size
    row_ptr[row + 1 :] = nnz
    return row_ptr, col_idx


def _divided(numbers: np.ndarray, divisor: int) -> Tuple[np.ndarray, np.ndarray]:
    """Quotients and remainders of numbers that are not negative. numpy has vectors for its division only."""
    quotients = numbers // divisor
    return quotients, numbers - quotients * divisor
