"""A peer in a process and a virtual environment of its own, asked for one turn at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from ..task import Candidate
from .peer import Peer


class RemoteError(Exception):
    """The worker could not do it."""


class Worker:
    """The other side of worker.py.

    Args:
        python: the interpreter of the virtual environment.
        engine: a name that worker.py knows.
        variables: added to its environment.
    """

    def __init__(self, python: Path, engine: str, variables: Dict[str, str]) -> None:
        script = Path(__file__).with_name("worker.py")
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (close() closes it)
        self._process = subprocess.Popen(
            [str(python), str(script), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **variables},
        )

    def ask(self, command: str, *arguments: object) -> Any:
        """The answer to a command of worker.py.

        Raises:
            RemoteError: with what went wrong over there.
        """
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None and answers is not None
        try:
            print(json.dumps({command: arguments}), file=questions, flush=True)
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RemoteError(f"the worker ended with status {self._process.wait()}: {_last_line(self._log)}")
        reply = json.loads(line)
        if "error" in reply:
            raise RemoteError(reply["error"])
        return reply["answer"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()


class RemotePeer(Peer):
    """A peer whose models run in a worker.

    Attributes:
        engine: its name in worker.py, and of its virtual environment.
        requirements: what pip installs there.
        pythons: versions that have wheels for it, best first.
        variables: added to the worker's environment.
    """

    engine: str
    requirements: Sequence[str]
    pythons: Sequence[str]
    variables: Dict[str, str] = {}

    def __init__(self, environments: Path, backend: Optional[str] = None) -> None:
        super().__init__(environments, backend)
        self._worker: Optional[Worker] = None
        self._folder = Path(tempfile.mkdtemp(prefix="mpl-sparse-bench-"))
        self._files = 0

    def unavailable(self) -> Optional[str]:
        try:
            python = install(self.environments / self.engine, self.requirements, self.pythons)
            self._worker = Worker(python, self.engine, self.variables)
            self._worker.ask("clear")
        except RemoteError as error:
            return str(error)
        return None

    def candidate(self, model: bytes, inputs: Tensor, threads: int, sparsity: float) -> Candidate:
        """A model, loaded in the worker.

        Raises:
            RemoteError: it does not load.
        """
        worker = self._worker
        assert worker is not None
        model_file, inputs_file, output_file = (self._new_file() for _ in range(3))
        model_file.write_bytes(model)
        np.save(inputs_file, inputs.contiguous().numpy())
        number = worker.ask("load", str(model_file), str(inputs_file), threads)

        def result() -> Tensor:
            worker.ask("result", number, str(output_file))
            return torch.from_numpy(np.load(output_file))

        return Candidate(self.name, sparsity, lambda calls: worker.ask("time", number, calls), result)

    def clear(self) -> None:
        if self._worker is not None:
            self._worker.ask("clear")
        for file in self._folder.iterdir():
            file.unlink()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        shutil.rmtree(self._folder)

    def _new_file(self) -> Path:
        self._files += 1
        return self._folder / f"{self._files}.npy"


def install(folder: Path, requirements: Sequence[str], pythons: Sequence[str]) -> Path:
    """The interpreter of a virtual environment in `folder` with `requirements`, made if it is not there yet.

    Raises:
        RemoteError: there is no such Python, or pip fails; with its last line.
    """
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists() and complete.read_text(encoding="utf-8").split() == list(requirements):
        return python
    base = _find_python(pythons)
    if base is None:
        raise RemoteError(f"it needs Python {' or '.join(pythons)}, which is not found")
    print(f"installing {' '.join(requirements)} into {folder}", flush=True)
    _run([base, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    complete.write_text(" ".join(requirements), encoding="utf-8")
    return python


def _find_python(versions: Sequence[str]) -> Optional[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        places: List[Path] = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
        # A pyenv shim on the path may stand for a version that is not active: the real file first.
        found = [str(place) for place in places] or [shutil.which(f"python{version}")]
        if found[-1]:
            return found[-1]
    return None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RemoteError(f"cannot be installed: {lines[-1].strip()}")


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["no output"])[-1]
