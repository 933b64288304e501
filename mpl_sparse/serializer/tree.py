"""Nested objects as JSON, with a number in the place of each tensor: see FORMAT.md, "The object"."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections import Counter, OrderedDict
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ..pattern import Pattern, is_tensor
from .errors import BadHeader, FileError
from .record import Arrays, Record
from .tensors import Content, Options, Planned, layer_content, pack, tensor_content

__all__ = ["MAX_DEPTH", "Decoder", "Encoder", "from_parts", "what_of"]

MAX_DEPTH = 100
MAX_BITS = 14_000  # of an int: Python reads no more than 4,300 digits
LAYER = ("values", "row_ptr", "col_idx")


class Encoder:
    """Turns an object into JSON, and its tensors into records and arrays, which gather in `tensors`."""

    def __init__(self, options: Options, encode_model: Callable[[Any, Encoder, str, int], Any]) -> None:
        """`encode_model` makes the JSON of a model at a path and a depth, and None of anything else."""
        self._encode_model = encode_model
        self.tensors: List[Tuple[Record, Arrays]] = []
        self._options = options
        self._names = {"__metadata__": 1}  # in use, and how many tensors have asked for each
        self._numbers: Dict[Any, int] = {}  # of tensors that may occur again
        self._kept: List[Any] = []  # a tensor that is gone could leave its address to another

    def encode(self, obj: Any, path: str = "", depth: int = 0) -> Any:
        """The JSON of `obj`; `path` names it in errors and names its tensors.

        Raises:
            TypeError: the format has no such object.
            ValueError: it is nested too deep, or in itself.
        """
        _check_depth(path, depth)
        if obj is None or type(obj) is bool:
            return obj
        if type(obj) is str:
            if not obj.isascii() and json.loads(json.dumps(obj)) != obj:
                raise ValueError(
                    f"{what_of(path)} is a str with surrogates in a pair, which JSON takes for one character"
                )
            return obj
        if type(obj) is int:
            if obj.bit_length() > MAX_BITS:
                raise ValueError(f"{what_of(path)} is an int of {obj.bit_length()} bits, more than {MAX_BITS}")
            return obj
        if type(obj) is float:
            return obj if math.isfinite(obj) else ["float", struct.pack(">d", obj).hex()]
        identity = _identity(obj)
        known = self._numbers.get(identity)
        if known is not None:
            return ["tensor", known]
        read = obj.read() if isinstance(obj, Planned) else obj
        content = tensor_content(what_of(path), read)
        if content is not None:
            number = self._add(path, content)
            self._numbers[identity] = number
            self._kept.append(obj)
            return ["tensor", number]
        obj = read
        if is_tensor(obj):
            return self._sparse_parts(obj, path, depth)
        if type(obj) in (list, tuple):
            items = [self.encode(item, _join(path, at), depth + 1) for at, item in enumerate(obj)]
            return [type(obj).__name__, *items]
        if type(obj) in (dict, OrderedDict, Counter):
            return self._dict(obj, path, depth, {})
        model = self._encode_model(obj, self, path, depth)
        if model is not None:
            return model
        raise TypeError(f"{what_of(path)} is a {type(obj).__name__}, which cannot be saved")

    def state(self, state: Any, path: str, depth: int, patterns: Dict[str, Pattern]) -> Any:
        """The JSON of a state_dict, whose sparse layers have these patterns."""
        return self._dict(state, path, depth, patterns)

    def _dict(self, obj: Dict[Any, Any], path: str, depth: int, patterns: Dict[str, Pattern]) -> Any:
        layers = self._layers(obj, path, patterns)
        pairs = []
        for key, value in obj.items():
            key_json = self._key(key, path, depth + 1)
            pairs.append([key_json, layers.get(key) or self.encode(value, _join(path, key), depth + 1)])
        if type(obj) is not OrderedDict:
            return ["dict" if type(obj) is dict else "counter", pairs]
        metadata = getattr(obj, "_metadata", None)  # of torch's state_dicts: the versions of the modules
        return ["odict", pairs, self.encode(metadata, _join(path, "_metadata"), depth + 1)]

    def _key(self, key: Any, path: str, depth: int) -> Any:
        _check_depth(path, depth)
        if key is None or type(key) in (bool, int, str, float):
            return self.encode(key, path, depth)
        if type(key) is tuple:
            return ["tuple", *(self._key(item, path, depth + 1) for item in key)]
        raise TypeError(f"{what_of(path)} has a key of type {type(key).__name__}, which cannot be saved")

    def _layers(self, obj: Dict[Any, Any], path: str, patterns: Dict[str, Pattern]) -> Dict[Any, Any]:
        """The JSON of the entries of `obj` that are the states of sparse layers, by key."""
        found = {}
        for key in obj:
            if type(key) is not str or not (key == "values" or key.endswith(".values")):
                continue
            prefix = key[: -len("values")]
            keys = [prefix + part for part in LAYER]
            if all(each in obj for each in keys):
                name = _join(path, prefix[:-1]) if prefix else path
                pattern = patterns.get(prefix[:-1])
                candidates = self._options.known if pattern is None else [pattern]
                values, row_ptr, col_idx = (obj[each] for each in keys)
                content = layer_content(what_of(name), values, row_ptr, col_idx, candidates)
                if content is not None:
                    number = self._add(name or "layer", content)
                    found.update({each: ["part", number, part] for each, part in zip(keys, LAYER)})
        return found

    def _add(self, path: str, content: Content) -> int:
        """Store a tensor under a name that is free. Only the ends of arrays' names begin with `.mpl.`."""
        base = (path or "tensor").replace(".mpl.", ".mpl_.").encode("utf-8", "replace").decode()
        name = base
        while name in self._names:
            self._names[base] += 1
            name = f"{base}#{self._names[base]}"
        self._names[name] = 1
        self.tensors.append(pack(name, content, self._options))
        return len(self.tensors) - 1

    def _sparse_parts(self, tensor: Any, path: str, depth: int) -> Any:
        """Sparse tensors of all other kinds, as the dense tensors that torch keeps them in."""
        layout = str(tensor.layout).rpartition(".")[2]
        plain = tensor.detach()
        if layout == "sparse_coo":
            parts = {"indices": plain._indices(), "values": plain._values()}
        elif layout in ("sparse_csr", "sparse_bsr"):
            parts = {"pointers": plain.crow_indices(), "indices": plain.col_indices(), "values": plain.values()}
        else:
            parts = {"pointers": plain.ccol_indices(), "indices": plain.row_indices(), "values": plain.values()}
        coalesced = layout == "sparse_coo" and tensor.is_coalesced()
        try:  # torch checks what it is
            from_parts(layout, list(tensor.shape), coalesced, [*parts.values()], sys.modules["torch"])
        except RuntimeError as error:
            raise ValueError(f"{what_of(path)} is no {layout} tensor: {error}") from None
        children = [self.encode(part, _join(path, name), depth + 1) for name, part in parts.items()]
        return ["sparse", layout, list(tensor.shape), coalesced, tensor.requires_grad, children]


class Decoder:
    """Makes an object from its JSON; `make` makes the tensor of a number, once each."""

    def __init__(
        self, make: Callable[[int], Any], torch: Optional[Any], make_model: Callable[[Any, Decoder, int], Any]
    ) -> None:
        """`make_model` makes the model of its JSON, which is at a depth."""
        self._make = make
        self._make_model = make_model
        self._torch = torch
        self.made: Dict[int, Any] = {}

    def decode(self, node: Any, depth: int = 0) -> Any:
        """The object of this JSON.

        Raises:
            BadHeader: it is not what an Encoder makes.
        """
        if depth > 2 * MAX_DEPTH:
            raise BadHeader(f"the object is nested deeper than {MAX_DEPTH}")
        if node is None or type(node) in (bool, int, str, float):
            return node
        decode = _DECODERS.get(node[0]) if type(node) is list and node and type(node[0]) is str else None
        if decode is None:
            raise BadHeader(f"the object has the node {str(node)[:80]}")
        try:
            return decode(self, depth + 1, *node[1:])
        except FileError:
            raise
        except (TypeError, ValueError, LookupError, struct.error, RuntimeError, OverflowError) as error:
            raise BadHeader(f"the object has the node {str(node)[:80]}: {str(error)[:200]}") from None

    def tensor(self, number: int) -> Any:
        """The tensor of that number."""
        if type(number) is not int or number < 0:
            raise BadHeader(f"there is no tensor {number!r}")
        if number not in self.made:
            self.made[number] = self._make(number)
        return self.made[number]

    def _float(self, _depth: int, bits: str) -> float:
        return float(struct.unpack(">d", bytes.fromhex(bits))[0])

    def _tensor(self, _depth: int, number: int) -> Any:
        return self.tensor(number)

    def _part(self, _depth: int, number: int, part: str) -> Any:
        layer = self.tensor(number)
        if type(layer) is not dict:
            raise BadHeader(f"the tensor {number} is not of a sparse layer")
        return layer[part]

    def _model(self, depth: int, *fields: Any) -> Any:
        return self._make_model(["model", *fields], self, depth)

    def _list(self, depth: int, *items: Any) -> Any:
        return [self.decode(item, depth) for item in items]

    def _tuple(self, depth: int, *items: Any) -> Any:
        return tuple(self._list(depth, *items))

    def _dict(self, depth: int, pairs: Any) -> Any:
        if type(pairs) is not list or not all(type(pair) is list for pair in pairs):
            raise BadHeader(f"the object has a dict of {str(pairs)[:80]}")
        made = {self._key(key, depth): self.decode(value, depth) for key, value in pairs}
        if len(made) != len(pairs):
            raise BadHeader("the object has a dict with a key that stands twice")
        return made

    def _counter(self, depth: int, pairs: Any) -> Any:
        return Counter(self._dict(depth, pairs))

    def _odict(self, depth: int, pairs: Any, metadata: Any) -> Any:
        made: Any = OrderedDict(self._dict(depth, pairs))
        if metadata is not None:
            made._metadata = self.decode(metadata, depth)
        return made

    def _key(self, node: Any, depth: int) -> Any:
        if type(node) is list and node[:1] == ["tuple"] and depth <= 2 * MAX_DEPTH:
            return tuple(self._key(item, depth + 1) for item in node[1:])
        if type(node) is list and node[:1] != ["float"]:
            raise BadHeader(f"the object has a dict with the key {str(node)[:80]}")
        return self.decode(node, depth)

    def _sparse(self, depth: int, layout: str, shape: Any, coalesced: bool, requires_grad: bool, children: Any) -> Any:
        parts = self._list(depth, *children)
        if self._torch is None:
            raise FileError(f"a tensor of the layout {layout} needs PyTorch")
        return from_parts(layout, shape, coalesced, parts, self._torch).requires_grad_(requires_grad)


_DECODERS: Dict[str, Callable[..., Any]] = {
    "float": Decoder._float,
    "tensor": Decoder._tensor,
    "part": Decoder._part,
    "list": Decoder._list,
    "tuple": Decoder._tuple,
    "dict": Decoder._dict,
    "counter": Decoder._counter,
    "odict": Decoder._odict,
    "sparse": Decoder._sparse,
    "model": Decoder._model,
}


def from_parts(layout: str, shape: List[int], coalesced: bool, parts: Any, torch: Any) -> Any:
    """The sparse tensor of these parts. RuntimeError, from torch, if they do not fit together."""
    if layout == "sparse_coo":
        indices, values = parts
        coalesced_or_unknown = True if coalesced else None
        return torch.sparse_coo_tensor(
            indices, values, shape, device="cpu", check_invariants=True, is_coalesced=coalesced_or_unknown
        )
    pointers, indices, values = parts
    layouts = {name: getattr(torch, name) for name in ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")}
    return torch.sparse_compressed_tensor(
        pointers, indices, values, shape, layout=layouts[layout], device="cpu", check_invariants=True
    )


def _identity(obj: Any) -> Any:
    """What two objects share that may be stored as one: the same memory, seen in the same way."""
    if is_tensor(obj):
        torch: Any = sys.modules["torch"]
        is_plain = type(obj) in (torch.Tensor, torch.nn.Parameter) and not obj.is_nested and not obj.is_meta
        if is_plain and obj.layout == torch.strided and obj.numel():
            return (
                type(obj),
                obj.dtype,
                obj.data_ptr(),
                obj.shape,
                obj.stride(),
                obj.requires_grad,
                obj.is_conj(),
                obj.is_neg(),
            )
        return id(obj)
    if isinstance(obj, np.ndarray) and obj.size:
        return type(obj), obj.dtype.str, obj.__array_interface__["data"][0], obj.shape, obj.strides
    return id(obj)


def _check_depth(path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{what_of(path[:80])} is nested deeper than {MAX_DEPTH}: does it hold itself?")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def what_of(path: str) -> str:
    """What errors call the object there."""
    return f"obj[{path!r}]" if path else "obj"
