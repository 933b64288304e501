"""Machines without torch: numpy arrays and pairs (Pattern, values), written and read."""

import os
import subprocess
import sys

import file_samples
import numpy as np
import pytest

from mpl_sparse import dumps, loads
from mpl_sparse.serializer import MissingLibrary, values

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


def python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=os.environ, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_numpy_machines_write_and_read(tmp_path):
    python(
        WITHOUT_TORCH
        + """
import numpy as np, mpl_sparse
mask = np.random.default_rng(0).random((30, 4, 3, 3)) < 0.1
pattern = mpl_sparse.Pattern.from_mask(mask)
obj = {"w": (pattern, np.arange(pattern.nnz, dtype=np.float32)), "b": np.ones(30), "n": [1, "x"], "s": np.float32(3)}
mpl_sparse.save(obj, sys.argv[1])
made = mpl_sparse.load(sys.argv[1])
assert made["w"][0] == pattern and np.array_equal(made["w"][1], obj["w"][1]) and type(made["w"][1]) is np.ndarray
assert np.array_equal(made["b"], obj["b"]) and made["n"] == obj["n"] and type(made["s"]) is np.float32
""",
        tmp_path / "file",
    )
    made = loads((tmp_path / "file").read_bytes())
    assert made["w"][1].dtype == np.float32 and made["w"][0].shape == (30, 4, 3, 3)


def test_numpy_machines_read_what_torch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    from mpl_sparse.models import lenet5
    from mpl_sparse.nn import SparseLinear

    layer = SparseLinear(20, 10)
    layer.random_prune_by_pct(0.8)
    weight = layer.weight.detach()
    obj = {
        "layer": layer.state_dict(),
        "coo": weight,
        "csr": weight.to_sparse_csr(),
        "bf16": torch.ones(3).bfloat16() / 3,
    }
    (tmp_path / "file").write_bytes(dumps({**obj, "parameter": layer.values}))
    (tmp_path / "model").write_bytes(dumps(lenet5()))
    (tmp_path / "vector").write_bytes(dumps(torch.eye(3)[0].to_sparse()))
    (tmp_path / "f8").write_bytes(dumps(torch.ones(3).to(torch.float8_e5m2)))
    python(
        WITHOUT_TORCH
        + """
import pathlib, numpy as np, mpl_sparse
folder = pathlib.Path(sys.argv[1])
made = mpl_sparse.load(folder / "file")
state = made["layer"]
pattern, values = made["coo"]
assert np.array_equal(state["values"], values) and np.array_equal(state["row_ptr"], pattern.row_ptr)
assert np.array_equal(state["col_idx"], pattern.col_idx) and pattern.shape == (10, 20) and pattern == made["csr"][0]
assert made["bf16"].dtype == np.float32 and made["bf16"][0] == np.float32(0.333984375)
assert type(made["parameter"]) is np.ndarray
assert len(mpl_sparse.inspect(folder / "model")) == 9
for name, error in (("model", ImportError), ("vector", ValueError), ("f8", ValueError)):
    try:
        mpl_sparse.load(folder / name)
    except error as error:
        assert "PyTorch" in str(error), error
    else:
        raise SystemExit(name)
again = mpl_sparse.loads(mpl_sparse.dumps(state))
assert list(again) == list(state) and all(np.array_equal(again[name], state[name]) for name in state)
""",
        tmp_path,
    )


def test_a_shape_that_numpy_has_not():
    torch = pytest.importorskip("torch")
    data = dumps({"a": torch.empty(2**62, 0)})
    assert loads(data)["a"].shape == (2**62, 0)
    python(
        WITHOUT_TORCH
        + """
import mpl_sparse
for names in (None, ["a"]):
    try:
        mpl_sparse.loads(bytes.fromhex(sys.argv[1]), names=names)
    except mpl_sparse.serializer.FileError as error:
        assert error.tensor == "a" and "needs PyTorch" in str(error), error
    else:
        raise SystemExit("numpy has such arrays")
""",
        data.hex(),
    )


def test_torch_is_not_loaded_for_numpy():
    python(
        """
import sys, pathlib, mpl_sparse, numpy as np
mpl_sparse.loads(mpl_sparse.dumps({"a": np.eye(30)}))
assert "torch" not in sys.modules
"""
    )


def test_golden_files_on_numpy_machines():
    python(
        WITHOUT_TORCH
        + """
sys.path.append(sys.argv[1])
import file_samples, mpl_sparse
for name, (obj, options, _) in file_samples.GOLDEN.items():
    data = (file_samples.FOLDER / "golden" / f"{name}.mpl").read_bytes()
    assert mpl_sparse.dumps(obj, **options) == data
    made = mpl_sparse.loads(data, known=[file_samples.KNOWN])
    assert mpl_sparse.dumps(made, **options) == data or name == "rounded"
""",
        file_samples.FOLDER.parent,
    )


def test_zstd_is_named_where_it_is_missing(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(values.importlib, "import_module", missing)
    with pytest.raises(MissingLibrary, match="pip install zstandard"):
        dumps(np.ones(3), compress="zstd")
    with pytest.raises(ImportError):
        values.decompressed(np.ones(3, np.uint8), 3, "u1")


def test_zstd_that_would_fill_memory_is_refused():
    zstandard = pytest.importorskip("zstandard")
    bomb = np.frombuffer(zstandard.ZstdCompressor().compress(bytes(10**8)), np.uint8)
    for packed in (bomb, bomb[:-3], bomb[1:], np.zeros(0, np.uint8)):
        with pytest.raises(values.BadValues):
            values.decompressed(packed, 1000, "<u4")
    assert np.array_equal(values.decompressed(values.compressed(np.arange(9, dtype="<u4")), 9, "<u4"), np.arange(9))
