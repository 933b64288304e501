"""`mpl-sparse inspect FILE`."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Dict, List, Sequence

from ..serializer import FileError, NotOurs, container
from ..serializer.dtypes import DTYPES
from ..serializer.files import opened
from ..serializer.legacy.importing import kind_of
from ..serializer.record import POSITIONS, Record

__all__ = ["inspect"]


def inspect(path: str, as_json: bool) -> int:
    """Run the command: the exit status."""
    try:
        with opened(path) as buffer:
            try:
                facts = facts_of(container.read(buffer), len(buffer))
            except NotOurs as error:
                kind = kind_of(memoryview(buffer))
                known = kind.startswith(("a zip", "a pickle", "a safetensors"))
                advice = f"it is {kind}: read it with `mpl-sparse convert {path} OUT`, and inspect OUT"
                return _failed(path, advice if known else str(error))
    except OSError as error:
        return _failed(path, error.strerror or str(error))
    except FileError as error:
        return _failed(path, str(error))
    print(json.dumps({"file": path, **facts}, indent=1) if as_json else table(facts))
    return 0


def facts_of(file: container.File, size: int) -> Dict[str, Any]:
    """What the header tells: of each tensor, and of all."""
    rows: List[Dict[str, Any]] = []
    coded = bits = bound = 0.0
    for record in file.records:
        begin, end = file.places.get(record.name + POSITIONS, (0, 0))
        rows.append(
            {
                "name": record.name,
                "shape": list(record.shape),
                "dtype": record.dtype,
                "stored": record.stored_dtype,
                "nnz": record.nnz,
                "density": record.nnz / record.numel if record.numel else 0.0,
                "encoding": record.coding.kind,
                "zstd": record.zstd,
                "bytes": file.nbytes(record),
                "dense_bytes": record.numel * DTYPES[record.dtype].itemsize,
            }
        )
        if record.nnz and record.coding.kind not in ("full", "ref"):
            coded += record.nnz
            bits += 8 * (end - begin)
            bound += _entropy(record)
    dense = sum(row["dense_bytes"] for row in rows)
    return {
        "bytes": size,
        "header_bytes": file.header_bytes,
        "dense_bytes": dense,
        "ratio": dense / size,
        "position_bits": bits / coded if coded else None,
        "position_bits_bound": bound / coded if coded else None,
        "tensors": rows,
    }


def _entropy(record: Record) -> float:
    """Bits of the positions if each is stored with the probability of the tensor's density: numel * H(density)."""
    parts = record.nnz / record.numel, 1 - record.nnz / record.numel
    return -record.numel * sum(part * math.log2(part) for part in parts if part > 0)


def table(facts: Dict[str, Any]) -> str:
    """The facts as text."""
    rows = [["name", "shape", "dtype", "density", "encoding", "bytes"]]
    for row in facts["tensors"]:
        stored = "" if row["stored"] == row["dtype"] else f" as {row['stored']}"
        rows.append(
            [
                _printable(row["name"]),
                "x".join(map(str, row["shape"])) or "scalar",
                row["dtype"] + stored,
                f"{row['density']:.2%}",
                row["encoding"] + (" + zstd" if row["zstd"] else ""),
                f"{row['bytes']:,}",
            ]
        )
    lines = _aligned(rows, right=(3, 5))
    count = f"{len(rows) - 1} tensor" + ("" if len(rows) == 2 else "s")
    lines += [
        "",
        f"{count} in {facts['bytes']:,} bytes (header {facts['header_bytes']:,})",
        f"dense: {facts['dense_bytes']:,} bytes, {facts['ratio']:.2f} times as many",
    ]
    if facts["position_bits"] is not None:
        bits, bound = facts["position_bits"], facts["position_bits_bound"]
        of = f", {bits / bound:.3f} of the entropy bound of {bound:.3f}" if bound else ""
        lines.append(f"positions: {bits:.3f} bits per nonzero{of}")
    return "\n".join(lines)


def _aligned(rows: List[List[str]], right: Sequence[int]) -> List[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    cells = (
        [cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]
        for row in rows
    )
    lines = ["  ".join(row).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _printable(name: str) -> str:
    """A name comes from the file: nothing in it may steer a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def _failed(path: str, message: str) -> int:
    print(f"mpl-sparse inspect: {path}: {' '.join(message.split())}", file=sys.stderr)
    return 1
