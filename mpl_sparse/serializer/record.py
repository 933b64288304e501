"""Record: what a file's header says of one tensor."""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from ..pattern import INT32_MAX
from .dtypes import DTYPES, is_floating
from .errors import BadHeader
from .positions import FULL, KINDS, MAX_NUMEL, MAX_SHIFT, Coding

__all__ = ["DENSE_FORMS", "MAX_RANK", "POSITIONS", "Arrays", "Record", "check_json"]

Arrays = Dict[str, np.ndarray]

DENSE_FORMS = ("dense", "scalar", "parameter")
POSITIONS = ".mpl.positions"  # the end of the name of the array that has them
FORMS = (*DENSE_FORMS, "coo", "csr", "layer", "pair", "pattern")
MAX_RANK = 64  # torch's and numpy's; numpy 1 has 32
DIVISORS = frozenset(factor << shift for factor in (1, 3) for shift in range(MAX_SHIFT + 1))
ROWS_FORMS = ("csr", "layer", "pair", "pattern")  # those that are made with a row_ptr


class Record(NamedTuple):
    """One tensor: positions, and a value for each.

    name: unique in the file.
    form: what it is loaded as. "dense", "scalar" (a numpy scalar), "parameter", "coo", "csr"; "layer": the values,
        row_ptr and col_idx of a sparse layer; "pair": (Pattern, values); "pattern".
    library: "torch" or "numpy".
    dtype: a key of DTYPES.
    shape: the full shape.
    nnz: the number of stored positions.
    coding: how the positions are encoded; the kind "ref" is a pattern that the reader must know.
    pattern: the id of that pattern, or "".
    stored: another dtype that the values were rounded to, or "".
    zstd: whether the values are compressed.
    requires_grad: of the tensor that is loaded.
    index_dtype: the dtype of a CSR tensor's indices, or "".
    crc32: of each array that is not empty, by the end of its name ("" is the tensor's own name).
    """

    name: str
    form: str
    library: str
    dtype: str
    shape: Tuple[int, ...]
    nnz: int
    coding: Coding = FULL
    pattern: str = ""
    stored: str = ""
    zstd: bool = False
    requires_grad: bool = False
    index_dtype: str = ""
    crc32: Dict[str, int] = {}

    @property
    def numel(self) -> int:
        """The number of elements of the full shape."""
        return math.prod(self.shape)

    def elements(self, torch: Any) -> int:
        """How many elements a load makes: all of a dense tensor; the indices of a COO tensor, the nonzeros and rows of
        any other sparse one, as it is also a COO tensor without `torch`."""
        if self.form in DENSE_FORMS:
            return self.numel
        if self.form == "coo" and self.library == "torch" and torch is not None:
            return self.nnz * len(self.shape)
        return self.nnz + self.shape[0]

    @property
    def has_values(self) -> bool:
        """Whether there are values: not where the positions tell all."""
        is_mask = self.form in DENSE_FORMS and self.dtype == "BOOL" and self.coding != FULL
        return not is_mask and self.form != "pattern"

    @property
    def stored_dtype(self) -> str:
        """The key in DTYPES of the values in the file."""
        return self.stored or self.dtype

    @property
    def values_array(self) -> str:
        """The end of the name of the array of values."""
        if self.zstd:
            return ".mpl.zstd"
        return "" if self.form in DENSE_FORMS and self.coding == FULL else ".mpl.values"

    def array(self, end: str, shape: Any) -> Tuple[str, Tuple[int, ...]]:
        """(safetensors dtype, shape) that the array of that name must have; `shape` is the one it has.

        Raises:
            BadHeader: the tensor has no such array.
        """
        dtype = DTYPES[self.stored_dtype]
        if self.has_values and end == self.values_array:
            if self.zstd:
                return "U8", (math.prod(shape),)
            return dtype.stored, (*((self.nnz,) if end else self.shape), *dtype.parts)
        if end == POSITIONS and self.coding.kind not in ("full", "ref"):
            return "U8", (math.prod(shape),)
        raise BadHeader(f"it has no array {end!r}", self.name)

    def to_json(self) -> Dict[str, Any]:
        """All that differs from the defaults."""
        plain = {**self._asdict(), "coding": self.coding.kind, **self.coding._asdict()}
        del plain["kind"]
        return {key: value for key, value in plain.items() if value != _DEFAULTS.get(key, ...)}

    @classmethod
    def from_json(cls, plain: Any) -> Record:
        """The record that `to_json` made into `plain`.

        Raises:
            BadHeader: it is not one that a writer makes.
        """
        if not isinstance(plain, dict) or not isinstance(plain.get("name"), str):
            raise BadHeader(f"a tensor is described by {str(plain)[:80]!r}")
        name = plain["name"]
        fields = {**_DEFAULTS, **plain}
        check_json(fields.keys() == _TYPES.keys(), f"keys are {sorted(plain)}", name)
        for key, kind in _TYPES.items():
            if type(fields[key]) is not kind:
                raise BadHeader(f"{key} is {str(fields[key])[:80]!r}", name)
        coding = Coding(fields.pop("coding"), fields.pop("zeros"), fields.pop("divisor"))
        fields["shape"] = tuple(fields["shape"])
        record = cls(coding=coding, **fields)
        record._check()
        return record

    def _check(self) -> None:
        def check(condition: bool, what: str) -> None:
            check_json(condition, f"{what} is {getattr(self, what)!r}", self.name)

        coding = self.coding
        check(self.form in FORMS, "form")
        check(self.library in ("torch", "numpy"), "library")
        check(self.dtype in DTYPES, "dtype")
        check(
            len(self.shape) <= MAX_RANK and all(type(size) is int and 0 <= size < 2**63 for size in self.shape), "shape"
        )
        check(self.numel <= MAX_NUMEL, "shape")
        check(self.form in DENSE_FORMS or len(self.shape) >= (2 if self.form in ROWS_FORMS else 1), "shape")
        check(self.form not in ("csr", "layer") or len(self.shape) == 2, "shape")
        check(self.form != "scalar" or self.shape == (), "shape")
        check(0 <= self.nnz <= self.numel and (coding != FULL or self.nnz == self.numel), "nnz")
        check(coding.kind in (*KINDS, "ref"), "coding")
        check(coding.divisor in (DIVISORS if coding.kind == "golomb" else (0,)), "coding")
        check(not coding.zeros or (coding.kind in ("huffman", "golomb") and 2 * self.nnz > self.numel), "coding")
        check(
            (coding.kind == "ref") == bool(self.pattern) and (not self.pattern or self.form not in DENSE_FORMS),
            "pattern",
        )
        check(not self.stored or (self.dtype in ("F32", "F64") and self.stored in ("F16", "BF16")), "stored")
        check(not (self.zstd or self.stored) or self.has_values, "zstd")
        check(self.index_dtype in (("int32", "int64") if self.form == "csr" else ("",)), "index_dtype")
        wide = self.form in ("dense", "scalar", "parameter", "coo") or self.index_dtype == "int64"
        check(wide or max(self.shape[0], math.prod(self.shape[1:]), self.nnz) <= INT32_MAX, "shape")
        check(all(type(crc) is int and 0 <= crc < 2**32 for crc in self.crc32.values()), "crc32")
        check(not self.requires_grad or (self.library == "torch" and is_floating(self.dtype)), "requires_grad")


_DEFAULTS: Dict[str, Any] = {
    "library": "torch",
    "coding": "full",
    "zeros": False,
    "divisor": 0,
    "pattern": "",
    "stored": "",
    "zstd": False,
    "requires_grad": False,
    "index_dtype": "",
    "crc32": {},
}
_TYPES = {
    "name": str,
    "form": str,
    "library": str,
    "dtype": str,
    "shape": list,
    "nnz": int,
    "coding": str,
    "zeros": bool,
    "divisor": int,
    "pattern": str,
    "stored": str,
    "zstd": bool,
    "requires_grad": bool,
    "index_dtype": str,
    "crc32": dict,
}


def check_json(condition: bool, what: str, tensor: Any = None) -> None:
    """BadHeader unless the condition holds."""
    if not condition:
        raise BadHeader(what, tensor)
