"""summary(model): a table of what is left."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, to_sparse  # noqa: E402
from mpl_sparse.report import summary  # noqa: E402

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
