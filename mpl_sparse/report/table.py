"""summary(): the rows of the layers and their total, as a table, a dict or a picture."""

# Not named summary.py: importing a submodule of that name would hide the function `mpl_sparse.report.summary`.

from __future__ import annotations

import operator
import os
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from torch import nn

from .inputs import Inputs, given_inputs, inputs_of_size
from .layers import SPARSE_KINDS, density, held, layers_of
from .measure import Use, measure
from .needs import needed
from .picture import draw
from .rounded import rounded

__all__ = ["Summary", "summary"]

# The columns after name and kind: heading, key of the row, and how a cell is written if not as a count.
_COLUMNS: Tuple[Tuple[str, str, Optional[Callable[[Any], str]]], ...] = (
    ("weight", "shape", lambda shape: "x".join(map(str, shape))),
    ("density", "density", "{:.2%}".format),
    ("nnz", "nnz", None),
    ("dense bytes", "dense_bytes", None),
    ("sparse bytes", "sparse_bytes", None),
    ("calls", "calls", None),
    ("dense multiply-adds", "dense_multiply_adds", None),
    ("sparse multiply-adds", "sparse_multiply_adds", None),
    ("ms", "ms", "{:,.3f}".format),
)
_SUMS = ("nnz", "numel", "dense_bytes", "sparse_bytes", "calls", "dense_multiply_adds", "sparse_multiply_adds", "ms")


class Summary:
    """The rows of :func:`summary`; str() is an aligned plain-text table.

    Attributes:
        rows: one dict for each layer: name, kind, shape, density, nnz, numel, dense_bytes, sparse_bytes; if the model
            was run also calls, dense_multiply_adds, sparse_multiply_adds; if it was timed also ms. Multiply-adds are
            None for a layer that was called and whose kind is not known.
        total: the same for all of them together. What is None counts nothing.
    """

    def __init__(self, rows: Sequence[Dict[str, Any]]) -> None:
        self.rows = tuple(rows)
        keys = [key for key in _SUMS if all(key in row for row in self.rows)] if self.rows else _SUMS[:4]
        sums = {key: sum(row[key] for row in self.rows if row[key] is not None) for key in keys}
        self.total = {"name": "total", "kind": "", "shape": (), "density": density(sums["nnz"], sums["numel"]), **sums}

    def __str__(self) -> str:
        table = [self._heading(), *(self._cells(row) for row in (*self.rows, self.total))]
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = [
            "  ".join([*map(str.ljust, row[:3], widths[:3]), *map(str.rjust, row[3:], widths[3:])]) for row in table
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__

    def to_dict(self) -> Dict[str, Any]:
        """{"rows": [...], "total": {...}} of plain numbers, strings, lists and None, as json.dumps takes them."""
        rows, total = ([{**row, "shape": list(row["shape"])} for row in each] for each in (self.rows, (self.total,)))
        return {"rows": rows, "total": total[0]}

    def to_rich(self) -> Any:
        """The table as a rich.table.Table, for rich.print; counts are rounded, 12.3M.

        Raises:
            ImportError: rich is not installed.
        """
        box, text, table = (needed(f"rich.{name}", by="Summary.to_rich") for name in ("box", "text", "table"))
        shown = table.Table(box=box.SIMPLE_HEAD, show_footer=True, padding=0, pad_edge=False)
        for place, (heading, total) in enumerate(zip(self._heading(), self._cells(self.total, rounded))):
            wrapped = heading.replace(" ", "\n").replace("multiply-", "multi-\nply-\n")  # narrow enough for 80 columns
            side = {"justify": "right", "no_wrap": True} if place >= 3 else {"overflow": "fold"}
            shown.add_column(wrapped, text.Text(total), vertical="bottom", **side)
        for row in self.rows:
            shown.add_row(*map(text.Text, self._cells(row, rounded)))  # a name is no markup
        return shown

    def plot(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write a PNG: bars of the layers' densities, and of their milliseconds if the model was timed, else of their
        dense and sparse multiply-adds if it was run, else of their bytes.

        An existing file is replaced, once the picture is complete.

        Raises:
            FileNotFoundError: there is no such folder.
            ImportError: matplotlib is not installed.
            ValueError: there are no layers, or `path` does not end in .png.
        """
        draw(self.rows, self.total, path)

    def _heading(self) -> Tuple[str, ...]:
        return ("layer", "kind", *(heading for heading, key, _ in _COLUMNS if key in self.total))

    def _cells(self, row: Dict[str, Any], count: Callable[[int], str] = "{:,}".format) -> Tuple[str, ...]:
        shown = ((row[key], written or count) for _, key, written in _COLUMNS if key in self.total)
        return (row["name"], row["kind"], *("-" if value is None else written(value) for value, written in shown))


def summary(
    model: nn.Module,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    timed_runs: Optional[int] = None,
    all_layers: bool = False,
) -> Summary:
    """What is left in each prunable layer of any model, the bytes of its weight stored dense and sparse, and, given
    inputs, what it computes.

    Sparse bytes are those of values, columns and row pointers. Biases are not counted. A weight that several layers
    share counts in each.

    Given inputs, the model runs once, in eval mode without gradients, and each layer's calls and multiply-adds are
    counted: for each position of the output, dense, one for each weight that the position sees, sparse, one for each
    that is left; where a kernel reaches into the padding too. A layer that is never called has 0. So has one whose
    weight is used in other ways than by calling the layer, as nn.MultiheadAttention does with its `out_proj`. The
    model comes out as it went in: training flags, hooks, batch norms' statistics and torch's generators.

    Args:
        input_size: the size of the input, batch included, or a list of sizes for a forward of several inputs. They are
            normally distributed, in the dtype and on the device of the model.
        example_inputs: the inputs themselves: a tensor, a tuple of positional arguments, or a dict of those by name.
        timed_runs: how often to run again to take the time: by default 5 times, on other devices than the CPU not at
            all. A layer's `ms` are the milliseconds of all its calls in a run, without those of listed layers inside
            it, in the run where they are least. The first dozen calls of a sparse layer may try tiles (see
            `set_tuning`): 20 runs are past that.
        all_layers: list also what is not prunable and holds weights: every module with parameters of two or more axes
            of its own, but for ScriptModules. It stays dense, so what it costs sparse is what it costs dense.

    A module that uses its children's weights itself may have a method `weight_uses(output)`, which gives for each such
    child's name the multiply-adds of each of its weights in the call that returned `output`. The call's time is divided
    among them by what they compute.

    On the meta device multiply-adds are counted too; masks have no values there, so masked layers count as not pruned.

    Raises:
        TypeError: `model` is not an nn.Module, `input_size` is not made of integers, `timed_runs` is not an integer.
        ValueError: a size is empty or has an entry below 1; both kinds of inputs are given, or none and `timed_runs`;
            `timed_runs` is negative, or the model to be timed is not on the CPU; the model does not run on the inputs;
            a parameter of it has no shape yet.
    """
    layers = layers_of(model, all_layers)
    runs = None if timed_runs is None else _checked_runs(timed_runs)
    inputs = _inputs(model, input_size, example_inputs)
    if inputs is None and runs:
        raise ValueError(f"timed_runs needs input_size or example_inputs, got timed_runs={timed_runs} alone")
    rows = [held(name, layer) for name, layer in layers]
    if inputs is None:
        return Summary(rows)
    sizes = {layer: each["nnz" if each["kind"] in SPARSE_KINDS else "numel"] for (_, layer), each in zip(layers, rows)}
    used = measure(model, sizes, inputs, runs)
    return Summary([{**each, **_computed(each, used[layer])} for (_, layer), each in zip(layers, rows)])


def _computed(row: Dict[str, Any], use: Use) -> Dict[str, Any]:
    per_weight = use.per_weight
    return {
        "calls": use.calls,
        "dense_multiply_adds": None if per_weight is None else per_weight * row["numel"],
        "sparse_multiply_adds": None if per_weight is None else per_weight * row["nnz"],
        **({} if use.ms is None else {"ms": use.ms}),
    }


def _inputs(model: nn.Module, input_size: Any, example_inputs: Any) -> Optional[Inputs]:
    if input_size is not None and example_inputs is not None:
        raise ValueError("give input_size or example_inputs, got both")
    if input_size is not None:
        return inputs_of_size(model, input_size)
    return None if example_inputs is None else given_inputs(example_inputs)


def _checked_runs(timed_runs: Any) -> int:
    try:
        runs = operator.index(timed_runs)
    except TypeError:
        runs = None
    if runs is None or isinstance(timed_runs, bool):
        raise TypeError(f"timed_runs must be an integer, got {timed_runs!r}")
    if runs < 0:
        raise ValueError(f"timed_runs must be at least 0, got {timed_runs!r}")
    return runs
