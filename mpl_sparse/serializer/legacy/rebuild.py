"""From what a pickle would have called to the tensors it would have made: each function that is known, checked.

The functions are those that torch, numpy and the original library (mpl.utils.save_load) name in their pickles.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ...pattern import INT32_MAX
from ..dtypes import DTYPES, is_floating
from ..errors import BadPickle, BadPositions, FileError
from ..positions import MAX_NUMEL
from ..save_load import find_torch
from ..tensors import Content, Planned, make, naming
from ..tree import MAX_DEPTH, from_parts
from . import modules
from .arrays import ARRAYS, array_content
from .stream import BYTES, Call, Global, Items, Persistent, in_protocol_2
from .strided import STORAGES, Storage, Strided, are_extents, dtype_named

__all__ = ["Rebuilder", "is_known"]

MAX_NODES = 1_000_000  # of an object that holds its parts many times
MAX_PATH = 2_000  # characters of a name: every tensor beneath a long key has it in its own
BITMAP = "PIL.Image.Image"


class Compressed(NamedTuple):
    """A sparse tensor of torch, by its dense parts."""

    layout: str
    shape: Tuple[int, ...]
    parts: Tuple[Strided, ...]
    is_coalesced: bool


class Indexed(NamedTuple):
    """A sparse matrix of the original library: values, and indices (2, nnz) or a bitmap."""

    shape: Tuple[int, ...]
    values: Strided
    indices: Optional[Strided]
    bitmap: Optional[np.ndarray]


class Parameter(NamedTuple):
    """A torch.nn.Parameter."""

    data: Any
    requires_grad: bool


class Rebuilder:
    """Turns the tree of one pickle into an object with a `Planned` in the place of each tensor.

    Args:
        storage: finds the storage of a `Persistent`, or of the bytes that a storage was pickled into.
        limit: how many nodes the object may have: a pickle can hold one list in a million places.
    """

    def __init__(self, storage: Callable[[Any], Storage], limit: int) -> None:
        self._storage = storage
        self._nodes = max(limit, MAX_NODES)
        self._planned: Dict[Any, Planned] = {}
        self._kept: List[Any] = []  # an object that is gone could leave its id to another

    def rebuild(self, node: Any, path: str = "", depth: int = 0) -> Any:
        """The object; `path` names its tensors.

        Raises:
            FileError: this is no object of tensors and plain data.
        """
        self._nodes -= 1
        if depth > MAX_DEPTH or self._nodes < 0:
            raise BadPickle(f"the object is nested deeper than {MAX_DEPTH}, or holds its parts too often", path[:80])
        if len(path) > MAX_PATH:
            raise BadPickle(f"its name has more than {MAX_PATH} characters", path[:80])
        node = in_protocol_2(node)
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) in (bytes, memoryview):
            return bytes(node)
        if type(node) in (list, tuple):
            return type(node)(self.rebuild(item, _join(path, at), depth + 1) for at, item in enumerate(node))
        if type(node) is dict:
            return self._dict(node, path, depth)
        if type(node) is OrderedDict:
            made = OrderedDict(self._dict(node, path, depth))
            if hasattr(node, "_metadata"):
                made._metadata = self.rebuild(node._metadata, _join(path, "_metadata"), depth + 1)  # type: ignore
            return made
        if type(node) is Items:
            return self._set(node)
        with naming(path or "tensor"):
            if type(node) is Global:
                dtype_named(node.name)
                return node.name
            if type(node) is Call:
                return self._call(node, path, depth)
        raise BadPickle(f"it holds a bare {type(node).__name__.lower()}", path or "tensor")

    def _dict(self, node: Dict[Any, Any], path: str, depth: int) -> Dict[Any, Any]:
        return {key: self.rebuild(value, _join(path, key), depth + 1) for key, value in node.items()}

    def _set(self, items: Any) -> Any:
        if type(items) not in (list, Items) or not all(
            item is None or type(item) in (bool, int, str) for item in items
        ):
            raise BadPickle("it has a set of more than numbers and strings")
        return set(items)

    def _call(self, node: Call, path: str, depth: int) -> Any:
        name, arguments = node.function, node.arguments
        if modules.is_module(name):
            return OrderedDict(
                (
                    key,
                    self._layer_part(value, _join(path, key))
                    if type(value) is modules.Part
                    else self.rebuild(value, _join(path, key), depth + 1),
                )
                for key, value in modules.state_of(node).items()
            )
        if name in _SETS and len(arguments) <= 1:
            return self._set(*arguments or ([],))
        if name in ARRAYS:
            return self._plan(id(node), node, path, lambda: array_content(node))
        if name == "torch.Size":
            return self._size(node)
        if name == "torch.device" and all(type(part) in (str, int) for part in arguments):
            return ":".join(map(str, arguments))[:80]
        if name in TENSORS:
            tensor = self.tensor(node)
            return self._plan(_identity(tensor, node), node, path, lambda: _content(tensor), _elements(tensor))
        raise BadPickle(f"{name} stands in no tensor")

    def _plan(self, identity: Any, node: Call, path: str, read: Callable[[], Any], elements: int = -1) -> Planned:
        if identity not in self._planned:
            if elements < 0:  # an array: numpy's are no larger than their bytes
                elements = math.prod(read().shape)
            self._planned[identity] = Planned(path or "tensor", elements, read)
            self._kept.append(node)
        return self._planned[identity]

    def _layer_part(self, part: modules.Part, path: str) -> Planned:
        """`values`, `row_ptr` or `col_idx` of a sparse layer of the original's; a bias without its second axis."""
        with naming(path):
            tensor = self.tensor(part.tensor)
            of = tensor.data if isinstance(tensor, Parameter) else tensor
            if not isinstance(of, Strided if part.name == "bias" else (Indexed, Compressed)) or len(of.shape) != 2:
                raise BadPickle(f"it is no sparse weight, and no bias, of shape {of.shape}")
        elements = _elements(of) + (of.shape[0] + 1 if part.name == "row_ptr" else 0)
        return self._plan(
            (id(part.tensor), part.name), part.tensor, path, lambda: _part_content(of, part.name), elements
        )

    # ----- tensors -----

    def tensor(self, node: Any, depth: int = 0) -> Any:
        """The Strided, Compressed, Indexed or Parameter that a call makes, checked."""
        if type(node) is not Call or node.function not in TENSORS or depth > 4:
            raise BadPickle(f"a tensor is a {_kind(node)}")
        try:
            return TENSORS[node.function](self, depth + 1, *node.arguments)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            if isinstance(error, FileError):
                raise
            raise BadPickle(f"{node.function} has other arguments: {str(error)[:200]}") from None

    def _strided(self, depth: int, of: Any, offset: Any, size: Any, stride: Any, grad: Any = False, *rest: Any) -> Any:
        storage = self.storage_of(of)
        if any(rest[1:]):
            raise FileError("it is the conjugate or the negative of what is stored, which is not supported")
        return Strided(storage, storage.dtype or "U8", offset, self._size(size), stride, grad).checked()

    def _typed(self, depth: int, of: Any, offset: Any, size: Any, stride: Any, grad: Any, *rest: Any) -> Any:
        _hooks, dtype, *metadata = rest
        if any(metadata):
            raise FileError("it is the conjugate or the negative of what is stored, which is not supported")
        return Strided(self.storage_of(of), _dtype(dtype), offset, self._size(size), stride, grad).checked()

    def _parameter(self, depth: int, data: Any, requires_grad: Any, *_hooks_and_state: Any) -> Any:
        tensor = self.tensor(data, depth)
        if type(requires_grad) is not bool or isinstance(tensor, Parameter):
            raise BadPickle("a parameter is of something else than a tensor")
        if requires_grad and not is_floating(_dtype_of(tensor)):
            raise BadPickle(f"a parameter of {_dtype_of(tensor)} cannot have a gradient")
        return Parameter(tensor, requires_grad)

    def _subclass(self, depth: int, function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
        """A tensor with attributes, which are left out; no true subclass."""
        if type(function) is not Global or type(arguments) is not tuple or kind not in _PLAIN:
            raise BadPickle("a tensor is of some subclass")
        return self.tensor(Call(function.name, arguments), depth)

    def _sparse(self, depth: int, layout: Any, arguments: Any) -> Any:
        """COO: indices, values, size[, is_coalesced]. The others: pointers, indices, values, size."""
        named = layout.arguments[0] if type(layout) is Call and layout.function == _LAYOUT else None
        name = named if type(named) is str else ""
        parts, size, flags = (2, 2, 3) if name == "torch.sparse_coo" else (3, 3, 4)
        is_coalesced = bool(arguments[flags : flags + 1] == (True,))
        tensors = tuple(self._part(part, depth) for part in arguments[:parts])
        shape = self._size(arguments[size])
        if name not in _LAYOUTS or len(tensors) != parts or len(arguments) > flags + 1:
            raise BadPickle(f"a sparse tensor has the layout {name[:80]!r}")
        if any(part.dtype not in ("I64", "I32") for part in tensors[:-1]) or math.prod(shape) > MAX_NUMEL:
            raise BadPickle(f"a sparse tensor of shape {shape} has indices of {tensors[0].dtype}")
        axes = tensors[0].shape
        if parts == 2 and (len(axes) != 2 or axes[0] > len(shape) or axes[1:] != tensors[1].shape[:1]):
            raise BadPickle(f"a sparse tensor has indices {axes} and values {tensors[1].shape}")
        return Compressed(name[6:], shape, tensors, is_coalesced)

    def _part(self, node: Any, depth: int) -> Strided:
        tensor = self.tensor(node, depth)
        if not isinstance(tensor, Strided):
            raise BadPickle("a part of a sparse tensor is not dense")
        return tensor

    def _original(self, depth: int, mode: Any, positions: Any, values: Any, size: Any) -> Any:
        """rebuild_dispatcher of mpl.utils.save_load: mode False has indices, mode True a bitmap."""
        shape, numbers = self._size(size), self._part(values, depth)
        if type(mode) is not bool or len(shape) != 2 or len(numbers.shape) != 1 or math.prod(shape) > MAX_NUMEL:
            raise BadPickle(f"a sparse matrix has shape {shape}, its values {numbers.shape}")
        if mode:
            return Indexed(shape, numbers, None, _bitmap(positions, shape))
        indices = self._part(positions, depth)
        if indices.shape != (2, numbers.elements) or indices.dtype not in ("U8", "I16", "I32", "I64"):
            raise BadPickle(f"{numbers.elements} values have indices of {indices.dtype} {indices.shape}")
        return Indexed(shape, numbers, indices, None)

    def storage_of(self, node: Any) -> Storage:
        """The storage of a Persistent, or of one that was pickled by itself."""
        if type(node) is Call and node.function == _STORAGE_BYTES and len(node.arguments) == 1:
            return self._storage(node)
        if type(node) is Persistent:
            return self._storage(node.key)
        raise BadPickle(f"a storage is a {_kind(node)}")

    def _size(self, node: Any) -> Tuple[int, ...]:
        if type(node) is Call and node.function == "torch.Size" and len(node.arguments) == 1:
            node = node.arguments[0]
        node = tuple(node) if type(node) is list else node
        if not are_extents(node):
            raise BadPickle(f"a shape is a {_kind(node)}")
        return tuple(node)


_STORAGE_BYTES = "torch.storage._load_from_bytes"
_LAYOUT = "torch.serialization._get_layout"
_LAYOUTS = {f"torch.sparse_{kind}" for kind in ("coo", "csr", "csc", "bsr", "bsc")}
_PLAIN = (Global("torch.Tensor"), Global("torch._tensor.Tensor"), Global("torch.nn.parameter.Parameter"))
_SETS = ("builtins.set", "__builtin__.set")

TENSORS: Dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": Rebuilder._strided,
    "torch._utils._rebuild_tensor_v2": Rebuilder._strided,
    "torch._utils._rebuild_tensor_v3": Rebuilder._typed,
    "torch._utils._rebuild_parameter": Rebuilder._parameter,
    "torch._utils._rebuild_parameter_with_state": Rebuilder._parameter,
    "torch._tensor._rebuild_from_type_v2": Rebuilder._subclass,
    "torch._utils._rebuild_sparse_tensor": Rebuilder._sparse,
    "torch._utils._rebuild_sparse_csr_tensor": Rebuilder._sparse,
    "mpl.utils.save_load.rebuild_dispatcher": Rebuilder._original,
}
_KNOWN = {
    *TENSORS,
    *ARRAYS,
    *STORAGES,
    *_SETS,
    *(kind.name for kind in _PLAIN),
    *(f"torch.{dtype.torch}" for dtype in DTYPES.values()),
    BITMAP,
    _LAYOUT,
    _STORAGE_BYTES,
    *BYTES,
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
}


def is_known(name: str) -> bool:
    """Whether a pickle may have the name of this function or class."""
    return name in _KNOWN or modules.is_module(name)


def _bitmap(node: Any, shape: Tuple[int, ...]) -> np.ndarray:
    """uint8 (rows, bytes of a row) of a Pillow image of mode "1": rows of whole bytes, the first bit the highest."""
    state = node.state if type(node) is Call and node.function == BITMAP else None
    if type(state) is not list or len(state) != 5 or state[1] != "1" or state[2] != shape[::-1]:
        raise BadPickle(f"the bitmap of a sparse matrix of shape {shape} is none of that shape")
    row_bytes = -(-shape[1] // 8)
    data = in_protocol_2(state[4])
    if type(data) not in (bytes, memoryview) or len(data) != shape[0] * row_bytes:
        raise BadPickle(f"the bitmap of a sparse matrix of shape {shape} has not as many bits")
    return np.frombuffer(data, np.uint8).reshape(shape[0], row_bytes)


def _elements(tensor: Any) -> int:
    if isinstance(tensor, Parameter):
        return _elements(tensor.data)
    if isinstance(tensor, Indexed):
        return tensor.values.elements
    if isinstance(tensor, Compressed):
        return sum(part.elements for part in tensor.parts)
    return int(tensor.elements)


def _dtype_of(tensor: Any) -> str:
    if isinstance(tensor, Strided):
        return tensor.dtype
    return tensor.values.dtype if isinstance(tensor, Indexed) else tensor.parts[-1].dtype


def _identity(tensor: Any, node: Call) -> Any:
    """What two calls share that make the same tensor."""
    if isinstance(tensor, Parameter) and isinstance(tensor.data, Strided):
        return ("parameter", tensor.requires_grad, _identity(tensor.data, node))
    if isinstance(tensor, Strided) and tensor.elements:
        return (tensor.storage.key, *tensor[1:])
    return id(node)


def _content(tensor: Any) -> Any:
    """The Content of a checked tensor; a sparse torch tensor where the format has none."""
    if isinstance(tensor, Parameter):
        content = _content(tensor.data)
        if not isinstance(content, Content):
            raise FileError(f"a parameter of the layout {content.layout} is not supported")
        form = "parameter" if content.form == "dense" else content.form
        return content._replace(form=form, requires_grad=tensor.requires_grad)
    if isinstance(tensor, Strided):
        return Content("dense", "torch", tensor.dtype, tensor.shape, None, tensor.bits(), tensor.requires_grad)
    if isinstance(tensor, Indexed):
        return _indexed_content(tensor)
    return _compressed_content(tensor)


def _part_content(tensor: Any, name: str) -> Content:
    content = _content(tensor)
    if name == "bias":
        return content._replace(shape=(math.prod(content.shape),))
    if not isinstance(content, Content) or content.positions is None or max(content.shape) > INT32_MAX:
        raise BadPositions("the positions of a sparse layer are not in order")
    if name == "values":
        return content._replace(form="dense", shape=content.positions.shape, positions=None)
    if name == "row_ptr":
        ends = np.arange(content.shape[0] + 1, dtype=np.int64) * content.shape[1]
        numbers = np.searchsorted(content.positions, ends)
    else:
        numbers = content.positions % max(content.shape[1], 1)
    return Content("dense", "torch", "I32", numbers.shape, None, numbers.astype("<i4").view("<u4"))


def _indexed_content(tensor: Indexed) -> Content:
    rows, cols = tensor.shape
    if tensor.bitmap is not None:
        bits = np.unpackbits(tensor.bitmap, axis=1, count=cols) if rows and cols else np.zeros(tensor.shape, np.uint8)
        positions = np.flatnonzero(bits).astype(np.int64, copy=False)
        if positions.size != tensor.values.elements:
            raise BadPositions(f"its bitmap has {positions.size} ones, it has {tensor.values.elements} values")
        return Content("coo", "torch", tensor.values.dtype, tensor.shape, positions, tensor.values.bits())
    assert tensor.indices is not None
    row, col = tensor.indices.numbers().astype(np.int64)
    positions, order = _sorted(row, col, tensor.shape)
    return Content("coo", "torch", tensor.values.dtype, tensor.shape, positions, tensor.values.bits()[order])


def _sorted(row: np.ndarray, col: np.ndarray, shape: Tuple[int, ...]) -> Tuple[np.ndarray, np.ndarray]:
    """(increasing positions, the order that makes them so) of the elements of a matrix."""
    for axis, size in ((row, shape[0]), (col, shape[1])):
        if axis.size and not 0 <= int(axis.min()) <= int(axis.max()) < size:
            raise BadPositions(f"an index is outside of the shape {shape}")
    positions = row * shape[1] + col
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    if (np.diff(positions) == 0).any():
        raise BadPositions("a position stands twice")
    return positions, order


def _compressed_content(tensor: Compressed) -> Any:
    values = tensor.parts[-1]
    plain = len(values.shape) == 1 and tensor.shape and len(tensor.shape) <= 32
    if plain and tensor.layout == "sparse_coo" and tensor.parts[0].shape == (len(tensor.shape), values.elements):
        indices = tensor.parts[0].numbers()
        sizes = np.array(tensor.shape, np.int64)[:, None]
        if ((indices < 0) | (indices >= sizes)).any():
            raise BadPositions(f"an index is outside of the shape {tensor.shape}")
        positions = np.zeros(values.elements, np.int64)
        for axis, size in zip(indices, tensor.shape):
            positions = positions * size + axis
        if (np.diff(positions) > 0).all() and tensor.is_coalesced:
            return Content("coo", "torch", values.dtype, tensor.shape, positions, values.bits())
    torch: Any = find_torch()
    if torch is None:
        return _csr_content(tensor)
    parts = [make(_content(part), torch) for part in tensor.parts]
    try:
        return from_parts(tensor.layout, list(tensor.shape), tensor.is_coalesced, parts, torch)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadPositions(f"it is no {tensor.layout} tensor: {str(error)[:200]}") from None


def _csr_content(tensor: Compressed) -> Content:
    """Without torch, of the layout CSR alone."""
    row_ptr, col_idx, values = tensor.parts if len(tensor.parts) == 3 else (None, None, None)
    shapes_fit = values is not None and len(tensor.shape) == 2 and tensor.layout == "sparse_csr"
    if not shapes_fit or row_ptr is None or col_idx is None or len(values.shape) != 1:  # type: ignore[union-attr]
        raise FileError(f"a tensor of the layout {tensor.layout} needs PyTorch")
    assert values is not None
    if row_ptr.shape != (tensor.shape[0] + 1,) or col_idx.shape != values.shape:
        raise BadPositions(f"its parts do not fit its shape {tensor.shape}")
    pointers, cols = row_ptr.numbers().astype(np.int64), col_idx.numbers().astype(np.int64)
    counts = np.diff(pointers)
    if pointers[0] != 0 or pointers[-1] != cols.size or (counts < 0).any():
        raise BadPositions("its row_ptr does not count its columns")
    positions, order = _sorted(np.repeat(np.arange(tensor.shape[0]), counts), cols, tensor.shape)
    index = {"I64": "int64", "I32": "int32"}[col_idx.dtype]
    return Content("csr", "torch", values.dtype, tensor.shape, positions, values.bits()[order], index_dtype=index)


def _dtype(node: Any) -> str:
    if type(node) is not Global:
        raise BadPickle(f"a dtype is a {_kind(node)}")
    return dtype_named(node.name)


def _kind(node: Any) -> str:
    return getattr(node, "function", None) or getattr(node, "name", None) or type(node).__name__


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
