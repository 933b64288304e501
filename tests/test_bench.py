"""The benchmarks themselves: their arithmetic on made-up times, and one small run through the whole of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench import cli, instructions, layers, measure, models, records, timing
from bench.peers.remote import RemoteError, Worker, install
from bench.task import WHATS
from torch import nn

import mpl_sparse


class Clock:
    """Moves only when a candidate works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds


def test_ratios_are_taken_within_a_round():
    # The machine is ten times slower in the last two rounds; the medians' quotient would be 2 / 10.
    assert timing.ratio([2, 2, 2, 20, 20], [1, 1, 10, 10, 10]) == timing.Ratio(2, 2, 2)


def test_ratio_quartiles_and_spread():
    found = timing.ratio([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    assert found == timing.Ratio(3, 2, 4)
    assert found.spread == pytest.approx(1 / 3)


def test_turns_are_filled_and_every_candidate_has_one_a_round():
    clock, log = Clock(), []

    def candidate(name, seconds):
        return timing.timer(lambda: (log.append(name), clock.work(seconds)), clock)

    timers = {"fast": candidate("fast", 0.25), "slow": candidate("slow", 8.0)}
    times = timing.take_turns(timers, rounds=3, turn_seconds=2.0)
    assert times == {"fast": [0.25] * 3, "slow": [8.0] * 3}
    # Before the first round: calls for as long as warming up takes.
    assert log.count("fast") == 8 + 3 * 8 and log.count("slow") == 1 + 3
    assert timing.fastest(times) == "fast"


@pytest.mark.parametrize(
    "points, crossing",
    [
        ([(0.5, 0.5), (0.75, 2.0)], 1 - 0.125**0.5),  # half way between log 0.5 and log 0.25
        ([(0.5, 1.5), (0.9, 4.0)], 0.5),
        ([(0.5, 0.1), (0.9, 0.9)], None),
        ([(0.5, 1.2), (0.7, 0.9), (0.9, 1.0)], 0.9),
        ([], None),
    ],
)
def test_break_even(points, crossing):
    assert records.break_even(points) == (None if crossing is None else pytest.approx(crossing))


def test_the_layers_have_names_of_their_own_and_known_classes():
    names = [layer.name for layer in layers.LAYERS]
    assert len(set(names)) == len(names)
    assert {layer.kind for layer in layers.LAYERS} | {"whole models"} == set(layers.KINDS)
    assert {kind for _, kind, _ in layers.TARGETS} <= set(layers.KINDS)
    assert set(layers.QUICK_LAYERS) <= set(layers.LAYERS)


def tiny_model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))


@pytest.fixture
def plan(tmp_path):
    return measure.Plan(
        whats=WHATS,
        layers=[layers.Conv(3, 5, 3, 7, stride=2), layers.Conv(4, 4, 3, 5, groups=4), layers.Linear(9, 6)],
        networks=[models.Network("tiny", tiny_model, (3, 6, 6))],
        sparsities=[0.5, 0.9],
        batches=[2],
        threads=1,
        backend=mpl_sparse.backends()[-1],
        peers=["torch CSR", "scipy"],
        rounds=2,
        turn_seconds=1e-5,
        file=tmp_path / cli.RECORDS,
        environments=tmp_path / "environments",
        command="python tests/bench --some",
    )


def test_a_small_run_from_measurement_to_report(plan, tmp_path):
    before = mpl_sparse.backend()
    said = []
    measure.run(plan, said.append)
    assert mpl_sparse.backend() == before
    assert sum(line.startswith("[") for line in said) == 2 * 3 + 1
    cli.write(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for what in ("Forward", "Training step", "Whole models"):
        assert re.search(rf"^## {what}.*: {plan.backend}, 1 thread$", text, re.M)
    number = r"[0-9.e+-]+"
    assert re.search(rf"^\| 3x3 stride 2 3->5 @7 \| 2 \|( {number} \|){{3}} [^|]+\| [0-9]+% \|$", text, re.M)
    assert re.search(rf"^\| linear 9->6 \| 2 \| {number} \|", text, re.M)
    assert re.search(r"^\| tiny \| mpl-sparse, folded \| torch (NCHW|channels_last), folded \|", text, re.M)
    assert "- Command: `python tests/bench --some`" in text and "torch 2" in text
    for picture in re.findall(r"^!\[.*\]\((.*)\)$", text, re.M):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert ("![" in text) == bool(importlib.util.find_spec("matplotlib"))


def test_what_is_measured_is_not_measured_again(plan):
    measure.run(plan, lambda line: None)
    first = plan.file.read_text(encoding="utf-8")
    measure.run(plan, pytest.fail)
    assert plan.file.read_text(encoding="utf-8") == first
    more = plan.__class__(**{**plan.__dict__, "sparsities": [0.95], "whats": ["forward"]})
    measure.run(more, lambda line: None)
    found = records.read(plan.file)
    assert len(found) == 7 and found[0].sparsities == [0.95]  # the last record of a case counts


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sparsity", "1.5"], "1.5"),
        (["--threads", "0"], "0"),
        (["--layers", "("], "regular expression"),
        (["--turn", "-1"], "-1"),
        (["--peers", "nobody"], "nobody"),
    ],
)
def test_bad_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        cli.parse(words)
    assert message in capsys.readouterr().err


def test_a_worker_says_what_fails_and_goes_on():
    worker = Worker(Path(sys.executable), "deepsparse", {})
    try:
        with pytest.raises(RemoteError, match="FileNotFoundError"):
            worker.ask("load", "no model", "no input.npy", 1)
        assert worker.ask("clear") is None
    finally:
        worker.close()


def test_a_worker_that_dies_says_why():
    worker = Worker(Path(sys.executable), "nonsense", {})
    with pytest.raises(RemoteError, match="KeyError: 'nonsense'"):
        worker.ask("clear")
    worker.close()


def test_an_environment_needs_one_of_its_pythons(tmp_path):
    with pytest.raises(RemoteError, match="needs Python 2.0"):
        install(tmp_path / "none", ["nothing"], ["2.0"])


def test_changes_of_instruction_counts():
    recorded = {"avx2": {"same": 1000, "near": 1000, "more": 1000, "fewer": 1000, "gone": 1}}
    counted = {"avx2": {"same": 1000, "near": 1020, "more": 1021, "fewer": 900, "new": 7}}
    assert instructions.changes(recorded, counted) == [
        "avx2 more: 1,000 -> 1,021 (+2.1%)",
        "avx2 fewer: 1,000 -> 900 (-10.0%)",
        "avx2 new: 7, not recorded",
        "avx2 gone: recorded, but no longer there",
    ]
    assert instructions.more(recorded, counted)
    assert not instructions.more(recorded, {"avx2": {"fewer": 900, "new": 7}})
