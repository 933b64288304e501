"""The demo: its data, its timing and its table, on a very short run."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mpl_sparse.cli import main

torch = pytest.importorskip("torch")
pytest.importorskip("tqdm")

from mpl_sparse.demo import digits, story, timing, training  # noqa: E402


def test_the_digits_are_those_of_the_uci_set():
    images, labels = digits.load_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8
    assert (images.min(), images.max(), images.astype(int).sum()) == (0, 16, 561718)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0] and labels[0] == 0


def test_the_held_out_digits_are_not_trained_on():
    whole = digits.load_digits()
    training_digits, held_out = digits.split_digits(whole)
    assert (len(training_digits.labels), len(held_out.labels)) == (1437, 360)
    assert np.array_equal(np.concatenate([training_digits.images, held_out.images]), whole.images)
    assert np.array_equal(np.concatenate([training_digits.labels, held_out.labels]), whole.labels)


def test_timing_gives_one_median_a_candidate(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    calls = []
    medians = timing.median_milliseconds([lambda: calls.append("a"), lambda: calls.append("b")])
    assert len(medians) == 2 and min(medians) > 0
    assert calls[-6:] == ["a", "b"] * 3


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    for name in ("DENSE_EPOCHS", "PRUNING_EPOCHS", "SPARSE_EPOCHS"):
        monkeypatch.setattr(story, name, 1)


def test_the_demo_prints_one_table_of_what_it_measured(short, capsys):
    generator_state = torch.get_rng_state()
    assert main(["demo", "--seed", "1"]) == 0
    torch.set_rng_state(generator_state)
    out, err = capsys.readouterr()
    assert err == ""  # no progress bar where there is no terminal
    number = r"[\d,.]+"
    for row in (
        rf"accuracy on held-out digits +({number}%\s*){{3}}",
        r"epochs of training so far +1 +5 +6",
        r"weights left +283,424 +28,344 +14,173",
        rf"bytes of weights \(with positions\) +1,133,696 +{number} +{number}",
        rf"ms per image, batch 1 +{number}( +{number} \({number}x\)){{2}}",
        rf"ms per image, batch 64 +{number}( +{number} \({number}x\)){{2}}",
        rf"ms per training step, batch 64 +{number}( +{number} \({number}x\)){{2}}",
    ):
        assert re.search(f"^{row}$", out, re.MULTILINE), row
    assert (
        min(float(share) for share in re.findall(r"([\d.]+)%\s", out.split("epochs")[0].split("digits")[1])) > 30
    )  # chance is 10
    slower = [line for line in out.splitlines() if re.search(r"\(0\.\d\dx\)", line)]
    assert ("SLOWER" in out) == bool(slower)
    assert float(re.search(r"to_sparse\(\): (\S+)\.$", out, re.MULTILINE)[1]) < 1e-3


def test_the_verdict_names_every_loss():
    dense, sparse = (story.Candidate(name, torch.nn.Identity(), 1, 1, 1) for name in ("dense", "sparse"))
    assert "faster" in story._verdict([dense, sparse], {"row": [2.0, 1.0]})
    assert story._verdict([dense, sparse], {"good": [2.0, 1.0], "bad": [1.0, 1.5]}).splitlines()[1:] == [
        "  sparse, bad (1.50x the dense time)"
    ]


def test_the_network_learns_from_either_optimizer():
    torch.manual_seed(0)
    data = training.as_tensors(digits.split_digits(digits.load_digits())[0])
    model = training.network()
    before = training.accuracy(model, data)
    training.train(model, torch.optim.Adam(model.parameters()), data, 1)
    assert training.accuracy(model, data) > before + 0.3
