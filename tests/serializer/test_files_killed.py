"""Killed at any moment of a save, the old file stands or the new one, and nothing gathers beside it."""

from __future__ import annotations

import builtins
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from mpl_sparse import dumps, loads, save

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

CONTENTS = [{"a": np.full(60_000, number)} for number in (1, 2)]
AT_RANDOM, AT_CALLS = 200, 110
CALLS = ("open", "chmod", "fsync", "replace", "close", "unlink")  # of os; `write` is that of files


def kills_itself_at(number: int, after: bool) -> None:
    """From here on, the process dies before, or after, the nth call that changes something on the disk."""
    left = [number]

    def counted(call, name):
        def counting(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                if name == "write":
                    call(args[0][: args[0].nbytes // 2])
                die(name)
            result = call(*args, **kwargs)
            if left[0] == 0:
                die(name)
            return result

        return counting

    def die(name):
        os.write(1, f"{name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    class Counted(io.FileIO):
        def write(self, data):
            return counted(super().write, "write")(memoryview(data))

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name), name))
    plain = builtins.open

    def opened(file, mode="r", *args, **kwargs):
        if mode == "wb" and isinstance(file, int):
            return io.BufferedWriter(Counted(file, mode))
        return plain(file, mode, *args, **kwargs)

    builtins.open = opened


def save_on_and_on(path: str, number: int) -> None:
    for _ in range(200):  # far more than anyone lives
        number = 1 - number
        save(CONTENTS[number], path)


def killed(path: str, number: int, prepare, wait) -> None:
    """A child that saves the other content and so on, and dies."""
    child = os.fork()
    if child == 0:
        prepare()
        save_on_and_on(path, number)
        os._exit(1)
    wait(child)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def many_kills(folder: str, seed: int) -> None:
    """Kill children, look at the file after each, and print what was seen."""
    draw, path = random.Random(seed), os.path.join(folder, "file")
    wanted = [dumps(content) for content in CONTENTS]
    save(CONTENTS[0], path)
    start = time.perf_counter()
    for number in (0, 1, 0, 1):
        save(CONTENTS[number], path)
    a_save = (time.perf_counter() - start) / 4
    number, seen, most = 1, [], 0

    def kill_soon(child):
        time.sleep(draw.uniform(0, 2.5 * a_save))
        os.kill(child, signal.SIGKILL)

    turns = [(lambda: None, kill_soon)] * AT_RANDOM
    for at in range(1, AT_CALLS // 2 + 1):
        for after in (False, True):
            turns.append((lambda at=at, after=after: kills_itself_at(at, after), lambda child: None))
    draw.shuffle(turns)
    for prepare, wait in turns:
        if len(os.listdir(folder)) == 1:  # each begins with what another left behind
            with open(os.path.join(folder, f".file.{len(seen):016x}.tmp"), "wb") as file:
                file.write(wanted[0][:1000])
        killed(path, number, prepare, wait)
        with open(path, "rb") as file:
            data = file.read()
        number = wanted.index(data)  # ValueError if it is neither
        assert np.array_equal(loads(data)["a"], CONTENTS[number]["a"])
        seen.append(number)
        most = max(most, len(os.listdir(folder)) - 1)
    left = len(os.listdir(folder)) - 1
    save(CONTENTS[1 - number], path)
    print(json.dumps({"seen": seen, "most": most, "left": left, "files": os.listdir(folder)}), flush=True)


def test_killed_at_any_moment_one_file_stands(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *calls, report = done.stdout.splitlines()
    report = json.loads(report)
    assert len(report["seen"]) == AT_RANDOM + AT_CALLS and set(report["seen"]) == {0, 1}
    assert report["most"] == 1 and report["files"] == ["file"]  # never more than one is left behind, and not for long
    assert len(calls) == AT_CALLS and set(Counter(calls)) == {"write", *CALLS}


if __name__ == "__main__":
    many_kills(sys.argv[1], int(sys.argv[2]))
