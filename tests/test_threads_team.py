"""The threads of torch layers: torch's own OpenMP team where it can be used, the core's pool everywhere else."""

import os
import platform
import signal
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from mpl_sparse import _core, cli  # noqa: E402
from mpl_sparse.autograd import lend_torch_threads  # noqa: E402

OPENMP = platform.system() == "Linux" and "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
needs_openmp = pytest.mark.skipif(not OPENMP, reason="needs Linux and a torch that is parallel by OpenMP")

LAYER = """
import os, sys, threading
import torch
import mpl_sparse.autograd  # lends the threads
from mpl_sparse import Pattern, _core, functional

torch.manual_seed(0)
pattern = Pattern.from_mask(torch.rand(300, 400) < 0.5)
values, rows = torch.randn(pattern.nnz), torch.randn(64, 400)

def layer():
    return functional.linear(rows, values, pattern)

def busy_torch():
    return torch.nn.functional.relu(torch.ones(1000, 1000)).sum()

def openmp_threads():
    return len(os.listdir("/proc/self/task"))
"""


def run(code, **environment):
    """The finished process that ran it after LAYER. A hang is ended by the time limit."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LAYER + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def python(code, **environment):
    """Run it after LAYER in a process of its own; what it printed."""
    result = run(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@needs_openmp
def test_torch_lends_its_threads():
    """The address lies in an OpenMP library that the process had loaded for torch; none was loaded for the purpose."""
    assert python("""
import ctypes
def libraries():
    return {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
def library_of(address):
    for line in open("/proc/self/maps"):
        begin, end = (int(place, 16) for place in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[-1]
from mpl_sparse.autograd.team import _gomp_parallel
before = libraries()
address = _gomp_parallel()
assert libraries() == before
assert address == 0 or "omp" in library_of(address), library_of(address)
layer()
assert _core.team() == address
print(bool(address))
""") == "True"  # fmt: skip


@needs_openmp
def test_layers_run_on_torchs_threads_and_start_none():
    """Two torch threads after torch and after the layer alike; the pool would have added one of its own."""
    code = """
torch.set_num_threads(2)
if POOL:
    _core.set_team(0)
busy_torch()
before = openmp_threads()
for _ in range(3):
    layer()
print(openmp_threads() - before)
"""
    assert python("POOL = False" + code) == "0"
    assert python("POOL = True" + code) == "1"


@needs_openmp
def test_bits_do_not_depend_on_the_team():
    python("""
torch.set_num_threads(1)
expected = layer()
for team in (_core.team(), 0):
    _core.set_team(team)
    for count in (1, 2, 3, 1, 2):
        torch.set_num_threads(count)
        assert torch.equal(layer(), expected)
""")


@needs_openmp
@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}, {"OMP_NUM_THREADS": "1"}])
def test_fewer_threads_than_asked_for_do_all_the_work(limit):
    python(
        """
expected = layer()
torch.set_num_threads(4)
assert _core.team()
for _ in range(20):
    assert torch.equal(layer(), expected)
""",
        **limit,
    )


@needs_openmp
def test_inside_a_parallel_region():
    """A layer that a thread of the team itself calls: the region within has one thread, and does all the tasks."""
    python("""
import ctypes
expected = layer()
torch.set_num_threads(2)
results, errors = [], []

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def work(_):
    try:
        results.append(torch.equal(functional.linear(rows, values, pattern), expected))
    except BaseException as error:
        errors.append(error)

region = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(_core.team())
region(ctypes.cast(work, ctypes.c_void_p), None, 2, 0)
assert results == [True, True] and not errors, (results, errors)
""")


@needs_openmp
def test_several_callers_at_once():
    python("""
torch.set_num_threads(2)
expected, wrong = layer(), []

def caller():
    for _ in range(100):
        busy_torch()
        if not torch.equal(layer(), expected):
            wrong.append(1)

callers = [threading.Thread(target=caller) for _ in range(4)]
[each.start() for each in callers]
[each.join() for each in callers]
assert not wrong
""")


@needs_openmp
def test_a_bad_argument_and_an_error_inside_leave_the_team_sound():
    python("""
torch.set_num_threads(2)
expected = layer()
for _ in range(10):
    try:
        functional.linear(rows[:, 1:], values, pattern)
    except ValueError as error:
        assert "input must have 400 features" in str(error)
    else:
        raise SystemExit("no error")
    assert torch.equal(layer(), expected)
""")


FORK = """
import signal, warnings
def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if work() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@needs_openmp
def test_a_child_of_fork_uses_the_pool():
    """libgomp would wait for threads that the child has not; torch itself may not be parallel there."""
    python(
        FORK
        + """
torch.set_num_threads(2)
busy_torch()
expected = layer()
assert _core.team()

def child():
    assert not _core.team()
    from mpl_sparse.autograd import lend_torch_threads
    assert not lend_torch_threads() and not _core.team()
    before = openmp_threads()
    good = all(torch.equal(layer(), expected) for _ in range(10))
    return good and openmp_threads() == before + 1

for _ in range(3):
    in_child(child)
    assert torch.equal(layer(), expected) and _core.team()
"""
    )


@needs_openmp
def test_a_child_of_fork_that_imports_first_uses_the_pool():
    """The parent has used OpenMP but never this library, so nothing has counted the fork."""
    code = """
import os, signal, sys, torch
import numpy as np
torch.set_num_threads(2)
torch.nn.functional.relu(torch.ones(1000, 1000))
child = os.fork()
if child == 0:
    signal.alarm(60)
    from mpl_sparse import Pattern, _core, functional
    pattern = Pattern.from_mask(np.ones((300, 400), bool))  # numpy: large operations of torch would wait for ever here
    rows, values = np.ones((64, 400), np.float32), np.ones(pattern.nnz, np.float32)
    output = functional.linear(torch.from_numpy(rows), torch.from_numpy(values), pattern)
    os._exit(0 if not _core.team() and output[0, 0].item() == 400 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120).returncode == 0


# A script of its own: workers that are spawned import it again, and a hang is ended by the time limit.
LOADER = """
import sys, torch
from mpl_sparse.nn import SparseLinear

class Rows(torch.utils.data.Dataset):
    # Samples that a layer computes, as a transform may, with 2 threads inside the worker.

    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 6

    def __getitem__(self, index):
        torch.set_num_threads(2)
        with torch.no_grad():
            return self.layer(torch.full((64, 300), float(index)))

if __name__ == "__main__":
    rows = Rows(SparseLinear(300, 200))
    expected = [rows[index] for index in range(len(rows))]
    loader = torch.utils.data.DataLoader(
        rows, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1], timeout=100
    )
    assert all(torch.equal(wanted, got) for wanted, got in zip(expected, loader, strict=True))
"""


@needs_openmp
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader(start, tmp_path):
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    assert subprocess.run([sys.executable, "-W", "ignore", script, start], timeout=120).returncode == 0


@needs_openmp
def test_the_process_ends_while_a_thread_computes():
    """It must not hang. How it ends is Python's doing: up to 3.13 a daemon thread that asks for the GIL is unwound, and
    C++ aborts where it may not be, in torch's own layers too.
    """
    result = run("""
torch.set_num_threads(2)
def forever():
    while True:
        layer()
threading.Thread(target=forever, daemon=True).start()
for _ in range(20):
    layer()
print("computed", flush=True)
""")
    assert result.stdout.strip() == "computed", result.stderr
    assert result.returncode in (0, -signal.SIGABRT), result.stderr


def test_without_openmp_the_pool_stays(monkeypatch):
    """Another parallel backend, no /proc, a torch without GOMP_parallel: nothing is raised, nothing is lent."""
    from mpl_sparse.autograd import team

    before = _core.team()
    _core.set_team(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.__config__, "parallel_info", lambda: "ATen parallel backend: native thread pool")
            assert not lend_torch_threads()
        with monkeypatch.context() as patch:
            patch.setattr(team, "Path", lambda _: Missing())
            assert not lend_torch_threads()
        with monkeypatch.context() as patch:
            patch.setattr(team.ctypes, "CDLL", lambda *_, **__: object())
            assert not lend_torch_threads()
        assert _core.team() == 0
        assert cli.info()["thread team"] == "own pool"
        if OPENMP:
            assert lend_torch_threads() and _core.team()
            assert cli.info()["thread team"] == "torch's OpenMP threads"
    finally:
        _core.set_team(before)


class Missing:
    """A file that is not there."""

    def read_text(self):
        raise FileNotFoundError
