"""save, load, dumps, loads, inspect."""

from __future__ import annotations

from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..pattern import Pattern
from . import container, models
from .errors import BadHeader, NoSuchTensor, TooLarge
from .files import opened, write_all, write_atomically
from .record import Record
from .tensors import Options, unpack
from .tree import Decoder, Encoder
from .values import find_zstd

__all__ = ["TensorInfo", "dumps", "inspect", "load", "loads", "save"]

MAX_ELEMENTS = 2**31
STORED = {"float16": "F16", "bfloat16": "BF16"}


class TensorInfo(NamedTuple):
    """What `inspect` tells of a tensor.

    name: as `names=` of `load` takes it.
    shape: the full shape. A sparse layer's weight is a matrix here, and without its model it has only as many columns
        as it uses.
    dtype: as in safetensors, such as "F32".
    nnz, density: stored elements, and their share. Of a dense tensor, those with a bit that is not zero, if that is
        how it is stored.
    encoding: "full", "bitmap", "huffman", "golomb", or "ref" for a pattern that the reader must know.
    nbytes: of its arrays in the file.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    nnz: int
    density: float
    encoding: str
    nbytes: int


def save(
    obj: Any, path: Any, *, compress: Optional[str] = None, dtype: Any = None, known: Sequence[Pattern] = ()
) -> None:
    """Write `obj` to a file of the format mpl-sparse/1, which any reader of safetensors opens.

    Written to a path, the file appears whole or not at all, and is on the disk when this returns.

    Args:
        obj: a tensor (torch: dense, sparse COO, CSR and the other layouts; numpy: arrays, scalars), a
            `mpl_sparse.Pattern`, a pair (Pattern, values), a state_dict of a model, layer or optimizer, a model that a
            function of `mpl_sparse.models` made, and dicts, lists and tuples of these with None, bool, int, float, str.
            What stands in two places: a tensor stays one, a dict or list becomes two.
        path: a path, or a file object with `write`.
        compress: "zstd" for lossless compression of values, where it makes them smaller; needs `zstandard`.
        dtype: "float16" or "bfloat16" (or torch's, numpy's): LOSSY, float32 and float64 values are rounded to it in the
            file. They are loaded with their own dtype again.
        known: patterns that the reader has too. A sparse tensor at one of them is stored as its values alone.

    Raises:
        TypeError: `obj` holds something that the format does not have.
        ValueError: a bad argument; `obj` is nested too deep, or needs a header of more than 100 MB.
        MissingLibrary: zstd is asked for, and there is none.
    """
    buffers = _encoded(obj, compress, dtype, known)
    if not hasattr(path, "write"):
        write_atomically(path, buffers)
        return
    for buffer in buffers:
        write_all(path, buffer)


def dumps(obj: Any, *, compress: Optional[str] = None, dtype: Any = None, known: Sequence[Pattern] = ()) -> bytes:
    """The bytes that `save` writes."""
    return b"".join(_encoded(obj, compress, dtype, known))


def load(
    path: Any,
    *,
    model: Any = None,
    names: Optional[Iterable[str]] = None,
    known: Sequence[Pattern] = (),
    max_elements: int = MAX_ELEMENTS,
) -> Any:
    """What was saved, equal bit for bit, on the CPU.

    Nothing in the file is executed or imported. Without torch, tensors are numpy arrays (bfloat16 becomes float32) and
    sparse ones are pairs (Pattern, values).

    Args:
        path: a path, or a file object with `read`.
        model: a model that takes the state_dict which was saved, or that of the saved model; it is returned.
        names: load only the tensors of these names, those that `inspect` lists: a dict of them is returned. A sparse
            layer is a dict of its values, row_ptr and col_idx. Of a file, only their bytes are read.
        known: patterns that `save` was given as known.
        max_elements: how many elements may be made in all, checked before any is.

    Raises:
        FileError: a file that cannot be read; `mpl_sparse.serializer` has a subclass for each fault.
        TypeError, ValueError: a bad argument.
    """
    with opened(path) as buffer:
        return loads(buffer, model=model, names=names, known=known, max_elements=max_elements)


def loads(
    data: Any,
    *,
    model: Any = None,
    names: Optional[Iterable[str]] = None,
    known: Sequence[Pattern] = (),
    max_elements: int = MAX_ELEMENTS,
) -> Any:
    """What `load` returns, from bytes."""
    patterns = {pattern.id: pattern for pattern in _checked_known(known)}
    checked_max_elements(max_elements)
    wanted = None if names is None else _checked_names(names)
    if wanted is not None and model is not None:
        raise ValueError(f"names and model exclude each other, got {names!r} and a {type(model).__name__}")
    file = container.read(data)
    records = file.records if wanted is None else _named(file.records, wanted)
    torch = find_torch() if any(record.library == "torch" for record in file.records) else None
    elements = sum(record.elements(torch) for record in records)
    if elements > max_elements:
        largest = max(records, key=lambda record: record.elements(torch))
        raise TooLarge(f"the file makes {elements} elements, max_elements is {max_elements}", largest.name)

    def make(record: Record) -> Any:
        return unpack(record, file.arrays(record), patterns, torch)

    if names is not None:
        return {record.name: make(record) for record in records}

    decoder = Decoder(lambda number: make(_numbered(records, number)), torch, make_model)
    is_state = model is not None and models.is_model(file.tree)
    obj = models.decoded(file.tree, decoder) if is_state else decoder.decode(file.tree)
    if len(decoder.made) != len(records):
        raise BadHeader("the file has tensors that are not in the object")
    if model is not None:
        return models.loaded(model, obj)
    return obj


def inspect(path: Any) -> List[TensorInfo]:
    """The tensors of a file, without reading their values.

    Args:
        path: a path, or a file object with `read`.

    Raises:
        FileError: a file whose header cannot be read.
    """
    with opened(path) as buffer:
        file = container.read(buffer)
        return [
            TensorInfo(
                record.name,
                record.shape,
                record.dtype,
                record.nnz,
                record.nnz / record.numel if record.numel else 0.0,
                record.coding.kind,
                file.nbytes(record),
            )
            for record in file.records
        ]


def make_model(node: Any, decoder: Decoder, depth: int) -> Any:
    """The model of its JSON."""
    return models.made(models.decoded(node, decoder, depth))


def _encoded(obj: Any, compress: Any, dtype: Any, known: Any) -> List[Any]:
    encoder = Encoder(checked_options(compress, dtype, known), models.encoded)
    tree = encoder.encode(obj)
    return container.write(encoder.tensors, tree)


def checked_options(compress: Any, dtype: Any, known: Any = ()) -> Options:
    """The options of `save`.

    Raises:
        ValueError, TypeError: they are none.
        MissingLibrary: zstd is asked for, and there is none.
    """
    if compress not in (None, "zstd"):
        raise ValueError(f'compress must be None or "zstd", got {compress!r}')
    stored = "" if dtype is None else STORED.get(_dtype_name(dtype))
    if stored is None:
        raise ValueError(f"dtype must be None or one of {sorted(STORED)}, got {dtype!r}")
    if compress is not None:
        find_zstd()
    return Options(compress is not None, stored, _checked_known(known))


def checked_max_elements(max_elements: Any) -> None:
    """ValueError unless it is a number of elements."""
    if type(max_elements) is not int or max_elements < 0:
        raise ValueError(f"max_elements must be an integer of at least 0, got {max_elements!r}")


def _dtype_name(dtype: Any) -> str:
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    return name.rpartition(".")[2]


def _checked_names(names: Any) -> List[str]:
    found: List[Any] = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [None]
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f"names must be a list of names, got {names!r}")
    return found


def _checked_known(known: Any) -> List[Pattern]:
    if not isinstance(known, Iterable):
        raise TypeError(f"known must be a list of mpl_sparse.Patterns, got a {type(known).__name__}")
    patterns = list(known)
    for pattern in patterns:
        if not isinstance(pattern, Pattern):
            raise TypeError(f"known must hold mpl_sparse.Patterns, got a {type(pattern).__name__}")
    return patterns


def _named(records: List[Record], names: List[str]) -> List[Record]:
    by_name = {record.name: record for record in records}
    for name in names:
        if name not in by_name:
            raise NoSuchTensor("there is no such tensor in the file", name)
    return [by_name[name] for name in dict.fromkeys(names)]


def _numbered(records: List[Record], number: int) -> Record:
    if number >= len(records):
        raise BadHeader(f"there is no tensor {number}")
    return records[number]


def find_torch() -> Optional[Any]:
    """The module torch; None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None
    return torch
