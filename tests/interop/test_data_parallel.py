"""DistributedDataParallel over gloo: two processes come to what one comes to with the whole batch."""

import pathlib
import runpy
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
)
SCRIPT = pathlib.Path(__file__).with_name("data_parallel.py")


@pytest.fixture
def outcomes(tmp_path):
    """A function that runs a case of the script in two processes; what each of them saved."""

    def run(case):
        results = [tmp_path / str(rank) for rank in range(2)]
        command = [sys.executable, SCRIPT, case]
        running = [
            subprocess.Popen([*command, str(rank), "2", tmp_path / "rendezvous", result], stderr=subprocess.PIPE)
            for rank, result in enumerate(results)
        ]
        try:
            for process in running:
                _, errors = process.communicate(timeout=120)
                assert process.returncode == 0, errors.decode()
        finally:
            for process in running:
                process.kill()
        return [torch.load(result, weights_only=True) for result in results]

    return run


def in_this_process(case):
    script = runpy.run_path(str(SCRIPT))
    return script[case](script["Process"](0, 1))


@pytest.mark.parametrize(
    "case, expected", [("sparse", "masked"), ("views", "masked"), ("pruned", "pruned"), ("moved", "moved")]
)
def test_two_processes_are_one(outcomes, case, expected):
    first, second = outcomes(case)
    alone = in_this_process(expected)
    torch.testing.assert_close(first, alone)
    assert all(torch.equal(second["weights"][name], tensor) for name, tensor in first["weights"].items())


def test_a_stale_wrapper_does_not_go_unnoticed(outcomes):
    for outcome in outcomes("stale"):
        assert any("make it anew" in text for text in outcome["warnings"])
        assert "Expected to have finished reduction in the prior iteration" in outcome["error"]
    assert in_this_process("stale") == {"warnings": [], "error": ""}


def test_processes_that_were_pruned_apart_are_told(outcomes):
    _, second = outcomes("different")  # the first process's state is the one that the others are given
    assert "give all of them one pattern" in second["error"]
