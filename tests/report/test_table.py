"""summary(model): a table of what is left."""

from __future__ import annotations

import io
import json
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, to_sparse  # noqa: E402
from mpl_sparse.report import summary  # noqa: E402
from mpl_sparse.report.rounded import rounded  # noqa: E402

TABLE = """\
layer  kind          weight   density  nnz  dense bytes  sparse bytes
---------------------------------------------------------------------
0      SparseConv2d  4x2x3x3   50.00%   36          288           308
2.0    SparseLinear  10x200    25.00%  500        8,000         4,044
---------------------------------------------------------------------
total                          25.87%  536        8,288         4,352"""


@pytest.fixture
def model():
    model = nn.Sequential(DenseConv2d(2, 4, 3), nn.ReLU(), nn.Sequential(DenseLinear(200, 10)))
    return mpl_sparse.prune_by_pct(model, [0.5, 0.75])


def test_the_table(model):
    assert str(summary(to_sparse(model))) == TABLE


def test_rows_and_total(model):
    table = summary(model)
    assert table.rows[1] == {
        "name": "2.0",
        "kind": "DenseLinear",
        "shape": (10, 200),
        "density": 0.25,
        "nnz": 500,
        "numel": 2000,
        "dense_bytes": 8000,
        "sparse_bytes": 500 * 8 + 11 * 4,
    }
    assert (table.total["nnz"], table.total["numel"], table.total["dense_bytes"]) == (536, 2072, 8288)


def test_sparse_bytes_are_the_bytes_held(model):
    sparse = to_sparse(model.double())
    held = sum(layer.values.nbytes + layer.row_ptr.nbytes + layer.col_idx.nbytes for layer in (sparse[0], sparse[2][0]))
    assert summary(sparse).total["sparse_bytes"] == held


def test_a_model_without_prunable_layers():
    table = summary(nn.Linear(2, 3))
    assert table.rows == ()
    assert table.total["density"] == 0.0
    assert len(str(table).splitlines()) == 4


RUN_TABLE = """\
kind         weight   density  nnz  dense bytes  sparse bytes  calls  dense multiply-adds  sparse multiply-adds
---------------------------------------------------------------------------------------------------------------
DenseConv2d  4x2x3x3   50.00%   36          288           308      1               10,800                 5,400
DenseLinear  10x200    25.00%  500        8,000         4,044      1                6,000                 1,500
---------------------------------------------------------------------------------------------------------------
                       25.87%  536        8,288         4,352      2               16,800                 6,900"""


def test_the_table_of_a_model_that_was_run(model):
    model.insert(2, nn.Flatten())
    # outputs of 5 x 10 in 4 channels: 200 features
    lines = str(summary(model, (3, 2, 7, 12), timed_runs=0)).splitlines()
    assert "\n".join(line[len("layer  ") :] for line in lines) == RUN_TABLE
    assert [line[:7].rstrip("- ") for line in lines] == ["layer", "", "0", "3.0", "", "total"]


def test_dict(model):
    model.insert(2, nn.Flatten())
    table = summary(model, (3, 2, 7, 12), timed_runs=1)
    copied = json.loads(json.dumps(table.to_dict()))
    assert copied["rows"] == [{**row, "shape": list(row["shape"])} for row in table.rows]
    assert copied["total"] == {**table.total, "shape": []}
    assert {"calls", "dense_multiply_adds", "sparse_multiply_adds", "ms"} <= copied["rows"][0].keys()
    assert set(summary(model).to_dict()["rows"][0]) == set(summary(model).rows[0])


def test_totals_are_sums(model):
    model.insert(2, nn.Flatten())
    table = summary(model, (3, 2, 7, 12), timed_runs=1)
    for key in ("nnz", "numel", "dense_bytes", "sparse_bytes", "calls", "dense_multiply_adds", "ms"):
        assert table.total[key] == sum(row[key] for row in table.rows)


def test_all_layers_lists_what_stays_dense():
    model = nn.Sequential(
        nn.Embedding(9, 6),
        DenseLinear(6, 5),
        nn.BatchNorm1d(3),
        nn.Linear(5, 4),
        nn.LSTM(4, 2),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
    )
    table = summary(model, all_layers=True)
    shown = [(row["name"], row["kind"], row["shape"], row["numel"]) for row in table.rows]
    assert shown == [
        ("0", "Embedding", (9, 6), 54),
        ("1", "DenseLinear", (5, 6), 30),
        ("3", "Linear", (4, 5), 20),
        ("4", "LSTM", (), 48),
        ("5", "ParametrizedLinear", (3, 2), 6),
    ]
    for place in (0, 2, 3, 4):
        row = table.rows[place]
        assert row["nnz"] == row["numel"] and row["density"] == 1
        assert row["sparse_bytes"] == row["dense_bytes"] == 4 * row["numel"]
    assert [row["name"] for row in summary(model).rows] == ["1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_module_hides_its_layers():
    model = nn.Sequential(torch.jit.trace(nn.Linear(2, 3), torch.rand(1, 2)), nn.Linear(3, 4))
    assert [(row["name"], row["calls"]) for row in summary(model, (1, 2), all_layers=True).rows] == [("1", 1)]


def test_a_lazy_layer_has_no_shape_yet():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"parameter '0\.weight' has no shape"):
        summary(model, (1, 2))


def test_rich_table(model):
    console = pytest.importorskip("rich.console")
    model.insert(2, nn.Flatten())
    model.add_module("[red]name", nn.Sequential(DenseLinear(10, 10)))
    out = io.StringIO()
    table = summary(model, (3, 2, 7, 12), timed_runs=0)
    console.Console(file=out, width=150, color_system=None).print(table.to_rich())
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["0", "DenseConv2d", "4x2x3x3", "50.00%", "36", "288", "308", "1", "10.8k", "5.4k"] in lines
    assert ["[red]name.0", "DenseLinear", "10x10", "100.00%", "100", "400", "844", "1", "300", "300"] in lines
    assert lines[-2][0] == "total"


def test_rich_is_asked_for_by_name(model, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ImportError, match="Summary.to_rich needs rich: pip install rich"):
        summary(model).to_rich()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (999_400, "999k"), (999_600, "1M"), (4.089e9, "4.09G")],
)
def test_rounded(count, text):
    assert rounded(count) == text
