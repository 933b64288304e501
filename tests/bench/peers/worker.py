"""Runs models of another library in its own virtual environment, a turn at a time, as the commands on stdin ask.

Needs nothing but numpy and that library, and any Python from 3.8: this file is run by itself, as
`python worker.py ENGINE`. One JSON command a line, one JSON answer a line:

    {"load": [model file, input .npy file, threads]}  -> the model's number
    {"time": [number, calls]}                         -> seconds
    {"result": [number, output .npy file]}            -> null; the output is in that file
    {"clear": []}                                     -> null
"""

import json
import os
import sys
import time

del sys.path[0]  # this folder: its scipy.py and deepsparse.py would hide the libraries

import numpy as np  # noqa: E402


def deepsparse(model, inputs, threads):
    """A function of no arguments that computes the outputs."""
    from deepsparse import Engine

    engine = Engine(model, batch_size=len(inputs), num_cores=threads)
    return lambda: engine.run([inputs], val_inp=False)[0]


class Worker:
    def __init__(self, engine):
        self.engine = engine
        self.calls = []

    def load(self, model, inputs, threads):
        self.calls.append(self.engine(model, np.load(inputs), threads))
        return len(self.calls) - 1

    def time(self, number, calls):
        call = self.calls[number]
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start

    def result(self, number, file):
        np.save(file, self.calls[number]())

    def clear(self):
        self.calls.clear()


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints must not stand among the answers
    worker = Worker({"deepsparse": deepsparse}[sys.argv[1]])
    for line in sys.stdin:
        ((name, arguments),) = json.loads(line).items()
        try:
            answer = {"answer": getattr(worker, name)(*arguments)}
        except Exception as error:  # goes to the benchmark, which says so
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
