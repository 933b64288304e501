"""The tables of sizes, of files and of the codec: their arithmetic, and a small run of the first and the last."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("scipy", "zstandard", "safetensors", "matplotlib"):
    pytest.importorskip(library)

from bench import codec, files, sizes  # noqa: E402


def test_the_bound_is_the_logarithm_of_the_number_of_masks():
    for nnz, numel in ((1, 2), (3, 10), (50, 200), (200, 200)):
        assert 8 * sizes.entropy_bytes(nnz, numel) == pytest.approx(math.log2(math.comb(numel, nnz)), abs=1e-9)


def test_what_others_take():
    mask = np.zeros((64, 64), np.bool_)
    mask.reshape(-1)[[0, 1, 200, 4095]] = True  # gaps 0, 0, 198, 3894
    assert sizes.original(mask, 4) == 4 * 2  # below 1/32: indices of 16 bits
    assert sizes.original(~mask, 4092) == 512
    assert sizes.varint(mask, 4) == 1 + 1 + 2 + 2
    assert sizes.elias_fano(mask, 4) == 4 * 10 // 8 + 1  # 10 low bits each, 4 + 4 bits of unary
    assert sizes.bitmask(mask, 4) == 64 * (8 + 8)
    assert sizes.PEERS["CSR int32"](mask, 4) == 4 * 4 + 4 * 65
    assert sizes.golomb_bytes(np.array([0, 0, 198, 3894]), 8, False) == 4 + math.ceil((4 + 15) / 8)


def test_a_small_run_writes_the_tables(tmp_path, capsys):
    sizes.main(["--size", "256", "--epochs", "0", "--write", str(tmp_path)])
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "python tests/bench/sizes.py --size 256" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| golomb") and line.count("|") == 9]
    assert rows and all(0.99 < float(row[-1].strip(" |")) < 1.2 for row in rows)  # small masks: bytes are rounded up
    assert (tmp_path / "positions.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(SystemExit):
        sizes.main(["--size", "100"])


def test_the_table_of_files():
    rows = [files.Row(files.DENSE, 1000, [4.0, 8.0], [2.0, 2.0]), files.Row("ours", 100, [1.0, 2.0], [1.0, 4.0])]
    assert files.table(rows).splitlines()[-1] == "| ours | 0.0 | 1.500 | 2.500 | 10 | 4 | 1.25 |"


def test_candidates_load_what_they_saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(32, 40))
    found = files.candidates(model)
    rows = files.measure(found, tmp_path, rounds=1)
    assert [row.name for row in rows] == [candidate.name for candidate in found]
    assert all(row.nbytes == (tmp_path / str(number)).stat().st_size for number, row in enumerate(rows))
    with pytest.raises(AssertionError, match="has changed"):
        files.check({**found[0].obj, "0.bias": torch.zeros(8)}, found[0].obj)


def test_a_small_run_of_the_codec_writes_its_table(tmp_path):
    codec.main(["--nnz", "3000", "--rounds", "1", "--write", str(tmp_path)])
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "python tests/bench/codec.py --nnz 3000" in text and text.count("\n| 0.") == len(codec.DENSITIES)
