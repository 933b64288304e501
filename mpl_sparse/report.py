"""A table of what is left in a model's prunable layers."""

# Not named summary.py: importing a submodule of that name would hide the function `mpl_sparse.summary`.

from __future__ import annotations

from typing import Any, Dict, Tuple

from .nn import Prunable, prunable_layers
from .requires_torch import torch

__all__ = ["Summary", "summary"]

INDEX_BYTES = 4  # row_ptr and col_idx are int32


class Summary:
    """The rows of `summary(model)`; str() is an aligned plain-text table.

    Attributes:
        rows: one dict for each prunable layer: name, kind, shape, density, nnz, numel, dense_bytes, sparse_bytes.
        total: the same for all of them together.
    """

    def __init__(self, rows: Tuple[Dict[str, Any], ...]) -> None:
        self.rows = rows
        sums = {key: sum(row[key] for row in rows) for key in ("nnz", "numel", "dense_bytes", "sparse_bytes")}
        self.total = {"name": "total", "kind": "", "shape": (), "density": _density(sums["nnz"], sums["numel"]), **sums}

    def __str__(self) -> str:
        heading = ("layer", "kind", "weight", "density", "nnz", "dense bytes", "sparse bytes")
        table = [heading, *(_cells(row) for row in (*self.rows, self.total))]
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = [
            "  ".join([*map(str.ljust, row[:3], widths[:3]), *map(str.rjust, row[3:], widths[3:])]) for row in table
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__


def summary(model: torch.nn.Module) -> Summary:
    """What is left in each prunable layer of any model, and the bytes of its weight stored dense and sparse.

    Sparse bytes are those of values, columns and row pointers. Biases are not counted.
    """
    return Summary(tuple(_row(name, layer) for name, layer in prunable_layers(model)))


def _row(name: str, layer: Prunable) -> Dict[str, Any]:
    shape = layer.weight_shape
    nnz, value_bytes = layer.num_weight, layer.remaining_weight().element_size()
    return {
        "name": name,
        "kind": type(layer).__name__,
        "shape": tuple(shape),
        "density": _density(nnz, shape.numel()),
        "nnz": nnz,
        "numel": shape.numel(),
        "dense_bytes": shape.numel() * value_bytes,
        "sparse_bytes": nnz * (value_bytes + INDEX_BYTES) + (shape[0] + 1) * INDEX_BYTES,
    }


def _cells(row: Dict[str, Any]) -> Tuple[str, ...]:
    shape = "x".join(map(str, row["shape"]))
    counts = (f"{row[key]:,}" for key in ("nnz", "dense_bytes", "sparse_bytes"))
    return (row["name"], row["kind"], shape, f"{row['density']:.2%}", *counts)


def _density(nnz: int, numel: int) -> float:
    return nnz / numel if numel else 0.0
