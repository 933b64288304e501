"""import_legacy: which kind of file it is, by its content, and the tensors that it plans."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple

from ..container import BEGIN
from ..errors import TooLarge, UnknownFormat
from ..files import opened
from ..save_load import MAX_ELEMENTS, checked_max_elements, find_torch
from ..tensors import Content, Planned, make, naming
from . import safetensors, torch_file

__all__ = ["OURS", "Plan", "filled", "import_legacy", "kind_of", "plan"]


class Plan(NamedTuple):
    """A foreign file, checked, with no tensor read yet.

    tree: the object, with a `Planned` in the place of each tensor; the same one where it is the same tensor.
    tensors: each `Planned` of the tree, once.
    """

    tree: Any
    tensors: List[Planned]


def import_legacy(path: Any, *, max_elements: int = MAX_ELEMENTS) -> Any:
    """Read a file of another program: tensors, and the dicts and lists that hold them, on the CPU.

    What kind of file it is, its content tells, not its name:

    - a file of `torch.save`, of any version of PyTorch since 0.4: state_dicts, checkpoints, sparse tensors. No more
      is read than `torch.load(weights_only=True)` reads. A whole module is refused;
    - a pickle of ModelPruningLibrary, the original of this library: tensors dense and sparse. Of its models and layers
      the state_dict is returned, with masks, as `prunable` models and, after `to_sparse`, ours take it;
    - a safetensors file: a dict of tensors by name. The four tensors X.compressed, X.bitmask, X.shape, X.row_offsets
      of compressed-tensors' formats "sparse-bitmask" and "sparse-24-bitmask" become one dense tensor, X.weight, or X
      itself in its files of before 2025, which have names X that end with ".weight".

    No pickle is executed. A reader of this library's own follows it, and knows the names of the functions that make
    plain tensors and arrays; any other name ends the reading. Nothing is imported, and torch.load is not called. What
    it returns can go to `load_state_dict`, and to `mpl_sparse.save` but for sets and bytes.

    Without torch, tensors are numpy arrays (bfloat16 becomes float32), sparse ones (Pattern, values). Tensors that
    share memory in part are separate ones afterwards; the same tensor twice stays the same. Names of dtypes and devices
    become strings, torch.Size a tuple.

    Args:
        path: a path, or a file object with `read`.
        max_elements: how many elements may be made in all, checked before any is.

    Raises:
        UnknownFormat: a file of another kind, or one of `mpl_sparse.save`.
        ForbiddenPickle: it asks for more than tensors: a module, an object of some class, code.
        BadPickle, BadArchive, BadHeader, BadPositions, BadValues, ChecksumMismatch, Truncated: damaged or malicious.
        TooLarge: more elements than `max_elements`.
        FileError: what the installed libraries cannot represent. All these are FileErrors.
        ValueError: a bad argument.
    """
    checked_max_elements(max_elements)
    with opened(path) as buffer:
        planned = plan(buffer, max_elements)
        torch = find_torch()
        made: Dict[int, Any] = {}

        def tensor(planned: Planned) -> Any:
            if id(planned) not in made:
                content = planned.read()
                with naming(planned.name):
                    made[id(planned)] = make(content, torch) if isinstance(content, Content) else content
            return made[id(planned)]

        return filled(planned.tree, tensor)


def plan(buffer: Any, max_elements: int) -> Plan:
    """What `import_legacy` will read from the bytes of a file.

    Raises:
        FileError: as import_legacy does, but for what only the tensors' bytes can tell.
    """
    data = memoryview(buffer).cast("B") if len(buffer) else memoryview(b"")
    kind = kind_of(data)
    if kind not in _READERS:
        raise UnknownFormat(f"it is {kind}, which is none of torch.save, of safetensors or of the original library")
    tree = _READERS[kind](data)
    tensors: Dict[int, Planned] = {}
    filled(tree, lambda planned: tensors.setdefault(id(planned), planned))
    elements = sum(planned.elements for planned in tensors.values())
    if elements > max_elements:
        largest = max(tensors.values(), key=lambda planned: planned.elements)
        raise TooLarge(f"the file makes {elements} elements, max_elements is {max_elements}", largest.name)
    return Plan(tree, list(tensors.values()))


_READERS: Dict[str, Callable[[memoryview], Any]] = {
    "a zip archive, as torch.save writes": torch_file.read_archive,
    "a pickle": torch_file.read_stream,
    "a safetensors file": safetensors.read,
}
OURS = "a file of mpl_sparse.save"


def kind_of(data: memoryview) -> str:
    """What a file is, in words, by how it begins."""
    archive, pickle, tensors = _READERS
    if data[8 : 8 + len(BEGIN)] == BEGIN:
        return OURS
    if data[8:9] == b"{" and data[4:8] == bytes(4):  # a length of any lowest bytes, so before those that follow
        return tensors
    if data[:4] == b"PK\x03\x04":
        return archive
    if data[:1] == b"\x80":
        return pickle
    if data[257:262] == b"ustar":
        return "a tar file, as torch.save wrote before PyTorch 0.2"
    return f"a file of {len(data)} bytes that begins with {bytes(data[:8])!r}"


def filled(tree: Any, tensor: Callable[[Planned], Any]) -> Any:
    """The object with `tensor(planned)` in the place of each `Planned`. `tree` is not deep: its reader saw to that."""
    if isinstance(tree, Planned):
        return tensor(tree)
    if type(tree) in (list, tuple, set):
        return type(tree)(filled(item, tensor) for item in tree)
    if type(tree) is dict:
        return {key: filled(value, tensor) for key, value in tree.items()}
    if type(tree) is OrderedDict:
        made = OrderedDict((key, filled(value, tensor)) for key, value in tree.items())
        if hasattr(tree, "_metadata"):  # of a state_dict: the versions of the modules
            made._metadata = tree._metadata  # type: ignore[attr-defined]
        return made
    return tree
