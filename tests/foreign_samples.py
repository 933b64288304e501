"""Files as other programs write them, for the tests: the original library's pickles, bitmasks, safetensors; and bytes
of hostile pickles.

The files in tests/serializer/legacy/golden were written by those programs themselves: original_*.pickle by
ModelPruningLibrary (with torch 2.13), torch*.pt by torch 2.13 with that library loaded, bitmask.safetensors by
compressed-tensors' BitmaskTensor.
"""

from __future__ import annotations

import contextlib
import copyreg
import json
import pathlib
import pickle
import struct
import sys
import types
import warnings

import file_samples
import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "serializer" / "legacy" / "golden"


def matrix(rows, cols, density):
    """float32: where `file_samples.mask` is True an element's number in its matrix, counted from 1, else 0."""
    mask = file_samples.mask(rows, cols, density)
    return np.where(mask, np.arange(1, mask.size + 1, dtype=np.float32).reshape(mask.shape), np.float32(0))


# ----- the original library -----


@contextlib.contextmanager
def original():
    """mpl as far as its pickles name it: `rebuild_dispatcher`, and the classes of its layers; pickling of tensors as
    mpl.utils.save_load registers it. Yields the modules by name."""
    import torch
    from PIL import Image

    names = ("mpl", "mpl.utils", "mpl.utils.save_load", "mpl.nn", "mpl.nn.linear", "mpl.nn.conv2d", "mpl.models.leaf")
    modules = {name: types.ModuleType(name) for name in names}

    def rebuild_dispatcher(mode, positions, values, size):
        raise AssertionError("the original's functions are never called")

    rebuild_dispatcher.__module__ = "mpl.utils.save_load"
    rebuild_dispatcher.__qualname__ = "rebuild_dispatcher"
    modules["mpl.utils.save_load"].rebuild_dispatcher = rebuild_dispatcher

    def reduce(tensor):
        if not tensor.is_sparse:
            return tensor.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        indices, values, size = tensor._indices(), tensor._values(), tensor.size()
        if tensor._nnz() / tensor.nelement() < 1 / 32:
            largest = int(indices.max())
            kinds = {8: torch.uint8, 15: torch.int16, 31: torch.int32}
            kind = next((kind for bits, kind in kinds.items() if largest < 1 << bits), torch.int64)
            return rebuild_dispatcher, (False, indices.to(kind), values, size)
        bitmap = torch.zeros(size, dtype=torch.bool)
        bitmap[tuple(indices)] = True
        return rebuild_dispatcher, (True, Image.fromarray(bitmap.numpy()), values, size)

    for module, name in (
        ("mpl.nn.linear", "DenseLinear"),
        ("mpl.nn.linear", "SparseLinear"),
        ("mpl.nn.conv2d", "DenseConv2d"),
        ("mpl.nn.conv2d", "SparseConv2d"),
        ("mpl.models.leaf", "Conv2"),
    ):
        setattr(modules[module], name, type(name, (torch.nn.Module,), {"__module__": module}))
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    dispatch = copyreg.dispatch_table.get(torch.Tensor)
    copyreg.pickle(torch.Tensor, reduce)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield modules
    finally:
        del copyreg.dispatch_table[torch.Tensor]
        if dispatch is not None:
            copyreg.dispatch_table[torch.Tensor] = dispatch
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def original_dumps(obj, protocol=pickle.DEFAULT_PROTOCOL):
    """The bytes that mpl.utils.save_load.save writes."""
    with original():
        return pickle.dumps(obj, protocol)


# ----- safetensors -----


def safetensors_file(tensors, header=None):
    """A safetensors file of {name: (dtype, shape, bytes)}; `header` changes the header, a dict, before that."""
    entries, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    if header is not None:
        header(entries)
    encoded = json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def bitmask_parts(name, mask, values):
    """compressed-tensors' four tensors of one: `mask` of any rank, `values` float32."""
    counts = mask.sum(-1)
    return {
        f"{name}.shape": ("I64", (mask.ndim,), np.array(mask.shape, "<i8").tobytes()),
        f"{name}.compressed": ("F32", values.shape, values.astype("<f4").tobytes()),
        f"{name}.bitmask": (
            "U8",
            (*mask.shape[:-1], -(-mask.shape[-1] // 8)),
            np.packbits(mask, axis=-1, bitorder="little").tobytes(),
        ),
        f"{name}.row_offsets": ("I64", counts.shape, (np.cumsum(counts, 0) - counts).astype("<i8").tobytes()),
    }


# ----- hostile pickles -----


class Calls:
    """Pickled, it is the call `function(*arguments)`; with a state, also what BUILD sets."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module, function):
    return text(module) + text(function) + b"\x93"


def plain(*opcodes):
    """A pickle of protocol 4 of these opcodes."""
    return b"\x80\x04" + b"".join(opcodes) + b"."
