"""A file of any kind as one of mpl-sparse/1, or as a plain safetensors file; tensor by tensor, without torch."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from . import container, models
from .dtypes import DTYPES
from .errors import FileError
from .legacy import safetensors
from .legacy.importing import OURS, filled, kind_of, plan
from .positions import MAX_NUMEL
from .record import DENSE_FORMS, Record
from .save_load import find_torch, make_model
from .tensors import Content, Options, Planned, pack, read, tensor_content, unpack
from .tree import Decoder, Encoder

__all__ = ["Source", "as_dense", "as_ours", "opened_source"]


class Source(NamedTuple):
    """A file whose tensors are not read yet. `file` is one of ours, else None; then `tree` is what `plan` makes."""

    file: Any
    tree: Any
    elements: int


def opened_source(buffer: Any) -> Source:
    """What to convert, from the bytes of a file.

    Raises:
        FileError: it is of an unknown kind, or damaged.
    """
    if kind_of(memoryview(buffer)) == OURS:
        file = container.read(buffer)
        return Source(file, None, sum(record.numel for record in file.records))
    planned = plan(buffer, MAX_NUMEL)
    return Source(None, planned.tree, sum(tensor.elements for tensor in planned.tensors))


def as_ours(source: Source, options: Options, done: Callable[[int], Any]) -> List[Any]:
    """The buffers of a file of mpl-sparse/1. `done` is told how many elements were read, after each tensor.

    Raises:
        FileError: a tensor is damaged, or has a pattern that only its reader has.
        TypeError: an object that the format does not have.
    """
    if source.file is None:
        encoder = Encoder(options, models.encoded)
        tree = encoder.encode(_watched(source.tree, done))
        return container.write(encoder.tensors, tree)

    def packed() -> Iterator[Any]:
        for record in source.file.records:
            yield pack(record.name, read(record, source.file.arrays(record), {}), options)
            done(record.numel)

    return container.write(packed(), source.file.tree)


def as_dense(source: Source, done: Callable[[int], Any]) -> List[Any]:
    """The buffers of a plain safetensors file: every tensor dense, by its name. What is no tensor is left out.

    A weight that has a mask beside it, as in the state of a masked layer, is 0 where the mask is False; the mask is
    left out.

    Raises:
        FileError: a tensor cannot be made dense.
    """
    named: Dict[str, Any] = {}
    for name, tensor in _named(_tree_of(source), ""):
        if name in named:
            raise FileError("two tensors have this name", name)
        named[name] = tensor
    return safetensors.write(_masked(named, done))


def _watched(tree: Any, done: Callable[[int], Any]) -> Any:
    made: Dict[int, Planned] = {}

    def watched(planned: Planned) -> Planned:
        def read_and_tell() -> Any:
            content = planned.read()
            done(told.pop("elements", 0))  # a tensor may be looked at twice
            return content

        told = {"elements": planned.elements}
        return made.setdefault(id(planned), Planned(planned.name, planned.elements, read_and_tell))

    return filled(tree, watched)


class _LayerPart(NamedTuple):
    layer: str


def _tree_of(source: Source) -> Any:
    """The object with a `Planned` in the place of each tensor."""
    file = source.file
    if file is None:
        return source.tree

    def planned(number: int) -> Any:
        if number >= len(file.records):
            raise FileError(f"there is no tensor {number}")
        record: Record = file.records[number]
        if record.form == "layer":
            return dict.fromkeys(("values", "row_ptr", "col_idx"), _LayerPart(record.name))
        return Planned(record.name, record.numel, lambda: read(record, file.arrays(record), {}))

    decoder = Decoder(planned, None, _state_of_inner_model)
    if not models.is_model(file.tree):
        return decoder.decode(file.tree)
    saved = models.decoded(file.tree, decoder)
    return _state_of_model(source) if saved.sparse else saved.state


def _state_of_inner_model(node: Any, decoder: Decoder, depth: int) -> Any:
    saved = models.decoded(node, decoder, depth)
    if saved.sparse:
        raise FileError("it holds a model with sparse layers inside another object: load it, and save its to_dense()")
    return saved.state


def _state_of_model(source: Source) -> Any:
    """The state of a model whose sparse layers were made dense: only the model knows the shapes of its weights."""
    torch = find_torch()
    if torch is None:
        raise FileError("it holds a model with sparse layers: to make them dense needs PyTorch")
    from ..nn import to_dense

    file = source.file
    decoder = Decoder(lambda number: _unpacked(file, number, torch), torch, make_model)
    return to_dense(models.made(models.decoded(file.tree, decoder))).state_dict()


def _unpacked(file: Any, number: int, torch: Any) -> Any:
    record = file.records[number]
    return unpack(record, file.arrays(record), {}, torch)


def _named(tree: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """Each tensor of an object, under the name that `save` would give it; one in two places under both."""
    if isinstance(tree, _LayerPart):
        raise FileError(
            "the state of a sparse layer does not tell the shape of its weight: load it into its model, and save "
            "mpl_sparse.to_dense(model).state_dict()",
            tree.layer,
        )
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _named(value, f"{path}.{key}" if path else str(key))
    elif type(tree) in (list, tuple):
        for at, value in enumerate(tree):
            yield from _named(value, f"{path}.{at}" if path else str(at))
    elif isinstance(tree, Planned) or hasattr(tree, "layout"):
        yield path or "tensor", tree


def _masked(named: Dict[str, Any], done: Callable[[int], Any]) -> Iterator[Tuple[str, Content]]:
    masks = {name[: -len("mask")] + "weight": name for name in named if name.rpartition(".")[2] == "mask"}
    masks = {weight: mask for weight, mask in masks.items() if weight in named}
    for name, tensor in named.items():
        if name in masks.values():
            continue
        content = _dense(name, tensor)
        mask = _dense(masks[name], named[masks[name]]) if name in masks else None
        if mask is not None and mask.dtype == "BOOL" and mask.shape == content.shape:
            assert content.bits is not None and mask.bits is not None
            bits = content.bits.copy()
            bits[mask.bits == 0] = np.zeros(1, bits.dtype)[0]
            content = content._replace(bits=bits)
        elif mask is not None:
            yield masks[name], mask
        yield name, content
        done(int(np.prod(content.shape, dtype=np.int64)))


def _dense(name: str, tensor: Any) -> Content:
    content = tensor.read() if isinstance(tensor, Planned) else tensor
    if not isinstance(content, Content):
        content = tensor_content(name, content.to_dense() if str(content.layout) != "torch.strided" else content)
    if content.form in DENSE_FORMS:
        return content
    numel = int(np.prod(content.shape, dtype=object))
    if content.form == "pattern":
        content = content._replace(bits=np.ones(content.positions.size, np.uint8))
    bits = np.zeros(numel, DTYPES[content.dtype].bits)
    bits[content.positions] = content.bits
    return content._replace(form="dense", positions=None, bits=bits)
