"""The experiments in small: every method trains, a stopped run goes on, the table's arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("tqdm", "matplotlib"):
    pytest.importorskip(library)

from mpl_sparse import experiments  # noqa: E402
from mpl_sparse.experiments import cli, records, report  # noqa: E402
from mpl_sparse.experiments.methods import METHODS  # noqa: E402
from mpl_sparse.experiments.picture import STYLES, _apart  # noqa: E402
from mpl_sparse.experiments.records import Record  # noqa: E402
from mpl_sparse.experiments.training import Training, network, rescale  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers  # noqa: E402
from mpl_sparse.pruning import prune  # noqa: E402


@pytest.fixture(autouse=True)
def restored():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "dense"])
def test_every_method_reaches_its_density(method):
    record = cli.run((method, 0.1, 0, 2))
    assert record.method == method and 0 <= record.accuracy <= 1
    exact = round(0.1 * 71_568)
    assert record.weights == exact if method != "PruneFL" else exact * 0.5 < record.weights <= exact
    assert record == cli.run((method, 0.1, 0, 2))


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ["--methods", "dense", "random", "--densities", "0.5", "0.2", "--seeds", "1", "--epochs", "1"]
    arguments += ["--out", str(tmp_path)]
    assert experiments.main(arguments) == 0
    file = tmp_path / "records.jsonl"
    whole, text = file.read_bytes(), (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert len(whole.splitlines()) == 3 and "| random |" in text and "| dense |" in text
    assert (tmp_path / "accuracy.png").read_bytes()[1:4] == b"PNG"

    file.write_bytes(whole[: len(whole) - 20])  # killed in the middle of a line
    ran = []
    run = cli.run
    monkeypatch.setattr(cli, "run", lambda key: ran.append(key) or run(key))
    assert experiments.main(arguments) == 0
    assert len(ran) == 1 and file.read_bytes() == whole
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == text
    assert experiments.main([*arguments[:-2], "--out", str(tmp_path)]) == 0 and len(ran) == 1


@pytest.mark.parametrize(
    "arguments", [["--methods", "magic"], ["--densities", "0"], ["--densities", "2"], ["--seeds", "0"], ["--jobs", "x"]]
)
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        experiments.main(arguments)
    assert end.value.code == 2 and "usage" in capsys.readouterr().err


def test_a_line_that_is_no_record_is_an_error(tmp_path):
    file = tmp_path / "records.jsonl"
    records.append(file, Record("random", 0.1, 0, 1, 0.5, 3))
    file.write_bytes(b'{"method": "random"}\n' + file.read_bytes())
    with pytest.raises(ValueError, match="line 1"):
        records.read(file)
    assert json.loads(file.read_bytes().splitlines()[1])["weights"] == 3


def test_the_table_and_the_orderings_against_numpy():
    random = np.random.default_rng(0)
    values = {(method, density): random.random(5) for method in ("RigL", "SET") for density in (0.1, 0.02)}
    made = [
        Record(method, density, seed, 1, float(value), 0)
        for (method, density), row in values.items()
        for seed, value in enumerate(row)
    ]
    for (method, density), row in values.items():
        cell = report.cells(made)[method][density]
        assert cell == pytest.approx((row.mean(), row.std(ddof=1), 5))
    found = report.compare(made, "RigL", "SET", [0.1, 0.02])
    differences = np.concatenate([values["RigL", density] - values["SET", density] for density in (0.1, 0.02)])
    assert found.difference == pytest.approx(differences.mean()) and found.pairs == 10
    assert found.error == pytest.approx(differences.std(ddof=1) / 10**0.5)
    assert report.orderings(made) and report.table(made).count("\n") == 3


def test_verdicts():
    for difference, error, verdict in ((3, 1, "shows"), (-3, 1, "the other way round"), (1, 1, "not to be told apart")):
        assert report.Comparison("a", "b", difference, error, 5).verdict == verdict


def test_every_method_has_a_line_of_its_own():
    assert STYLES.keys() == METHODS.keys() - {"dense"} and len(set(STYLES.values())) == len(STYLES)
    placed = _apart([1.0, 1.1, 1.2, 5.0], 0.5)
    assert min(np.diff(placed)) > 0.5 - 1e-6 and placed[-1] == 5.0


def test_rescaling_keeps_the_size_of_signals():
    torch.manual_seed(0)
    model = prunable(network())
    before = {name: float(layer.weight.detach().square().sum()) for name, layer in prunable_layers(model)}
    prune(model, 0.1, score="random", selection="layer")
    rescale(model)
    for name, layer in prunable_layers(model):
        after = float(layer.masked_weight.detach().square().sum())
        assert after == pytest.approx(before[name], rel=0.5)


def test_the_learning_rate_falls():
    training = Training(1)
    optimizer = training.optimizer(network())
    rates = [optimizer.param_groups[0]["lr"] for _ in training.steps(optimizer, 0, training.total)]
    assert len(rates) == 23 and rates[0] == 0.05 and rates[-1] == pytest.approx(0.0005)
