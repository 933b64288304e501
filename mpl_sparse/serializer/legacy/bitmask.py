"""compressed-tensors' sparse tensors in a safetensors file, of its formats "sparse-bitmask" and "sparse-24-bitmask".

A tensor is X.compressed, its values in row-major order; X.bitmask, uint8, a bit for each element, the rows of its last
axis padded to whole bytes, the first bit the lowest; X.shape, int64; and, but for 2:4, X.row_offsets, the number of
values before each row. (vllm-project/compressed-tensors, compressors/sparse_compressors.)
"""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple

import numpy as np

from ..dtypes import DTYPES
from ..errors import BadHeader, BadPositions
from ..positions import MAX_NUMEL
from ..tensors import Content, Planned, naming

__all__ = ["unpacked"]

PARTS = ("compressed", "bitmask", "shape")
OFFSETS = "row_offsets"
WEIGHT = "weight"


def unpacked(tensors: Dict[str, Planned]) -> Dict[str, Planned]:
    """The tensors, with one dense one in the place of the parts of each that is a bitmask.

    Raises:
        BadHeader: some parts of one are missing, or have other dtypes or shapes than they must.
    """
    ends = "." + PARTS[0]
    found = [
        name[: -len(ends)] for name in tensors if name.endswith(ends) and f"{name[: -len(ends)]}.bitmask" in tensors
    ]
    # since 2025 X is the layer; before, it was the weight
    names_weights = any(name.rpartition(".")[2] == WEIGHT for name in found)
    parts = {f"{name}.{part}": name for name in found for part in (*PARTS, OFFSETS)}
    made = {}
    for name, tensor in tensors.items():
        owner = parts.get(name)
        if owner is None:
            target, dense = name, tensor
        elif name != f"{owner}.{PARTS[0]}":
            continue
        else:
            target = owner if names_weights else f"{owner}.{WEIGHT}"
            dense = _planned(target, owner, tensors)
        if target in made:
            raise BadHeader("the file has it twice, once as a bitmask", target)
        made[target] = dense
    return made


def _planned(target: str, owner: str, tensors: Dict[str, Planned]) -> Planned:
    if f"{owner}.shape" not in tensors:
        raise BadHeader(f"{owner}.shape is missing", target)
    values, bitmask, sizes = (tensors[f"{owner}.{part}"].read() for part in PARTS)
    offsets = tensors[f"{owner}.{OFFSETS}"].read() if f"{owner}.{OFFSETS}" in tensors else None
    with naming(target):
        shape = _shape(sizes)
        row_bytes = -(-shape[-1] // 8)
        if bitmask.dtype != "U8" or math.prod(bitmask.shape) != math.prod(shape[:-1]) * row_bytes:
            raise BadHeader(f"its bitmask is {bitmask.dtype} {bitmask.shape}, its shape {shape}")
        if offsets is not None and (offsets.dtype != "I64" or math.prod(offsets.shape) != math.prod(shape[:-1])):
            raise BadHeader(f"its row_offsets are {offsets.dtype} {offsets.shape}, its shape {shape}")
    return Planned(target, math.prod(shape), lambda: _content(shape, values, bitmask, offsets))


def _shape(sizes: Content) -> Tuple[int, ...]:
    numbers = sizes.bits.view(np.int64).tolist() if sizes.dtype == "I64" and sizes.bits is not None else []
    extents = [max(number, 1) for number in numbers]  # numpy multiplies them also where one is 0
    if not 1 <= len(numbers) <= 32 or min(numbers) < 0 or math.prod(extents) > MAX_NUMEL:
        raise BadHeader(f"its shape is {str(numbers)[:80]}")
    return tuple(numbers)


def _content(shape: Tuple[int, ...], values: Content, bitmask: Content, offsets: Any) -> Content:
    assert values.bits is not None and bitmask.bits is not None
    bits = np.zeros(shape, np.uint8)
    if bits.size:
        packed = bitmask.bits.reshape(*shape[:-1], -1)
        bits = np.unpackbits(packed, axis=-1, count=shape[-1], bitorder="little")
        used = shape[-1] % 8
        if used and (packed[..., -1] >> used).any():
            raise BadPositions("its bitmask has ones beyond the last column")
    mask = bits.reshape(-1).view(bool)
    if np.count_nonzero(mask) != values.bits.size:
        raise BadPositions(f"its bitmask has {np.count_nonzero(mask)} ones, it has {values.bits.size} values")
    if offsets is not None:
        counts = bits.sum(axis=-1, dtype=np.int64)
        expected = np.cumsum(counts, 0) - counts if counts.ndim else counts * 0
        if not np.array_equal(expected.reshape(-1), offsets.bits.view(np.int64)):
            raise BadPositions("its row_offsets do not count the ones of its bitmask")
    dense = np.zeros(mask.size, DTYPES[values.dtype].bits)
    dense[mask] = values.bits
    return values._replace(shape=shape, bits=dense)
