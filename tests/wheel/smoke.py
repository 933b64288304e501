"""The smoke test of an installed wheel: the standard library alone, no numpy, no torch, no pytest.

    python tests/wheel/smoke.py [--backend neon [--only]]

Every function of the core, float32 and float64, on every backend of this machine, against sums written out in Python;
small whole numbers, so that every sum is exact. With --backend, that one must be there and be the one that was chosen.
"""

from __future__ import annotations

import argparse
import array
import ctypes
import itertools
import math
import os
import random
import subprocess
import sys
import sysconfig
import threading
from importlib import util
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from capsules import Managed, int64s, new_capsule

import mpl_sparse
from mpl_sparse import _core

KINDS = {"f": (2, 32), "d": (2, 64), "i": (0, 32)}  # array's type code: DLPack's code and bits


class Array:
    """Numbers in row-major order behind `__dlpack__`."""

    def __init__(self, kind, shape, numbers=None):
        self.shape = tuple(shape)
        count = math.prod(self.shape)
        self.numbers = array.array(kind, [99] * count if numbers is None else numbers)
        assert len(self.numbers) == count
        self.managed = Managed()
        tensor = self.managed.tensor
        tensor.data, tensor.device_type, tensor.lanes = self.numbers.buffer_info()[0], 1, 1
        tensor.code, tensor.bits = KINDS[kind]
        tensor.ndim, tensor.shape = len(self.shape), int64s(self.shape)

    def __dlpack__(self):
        return new_capsule(ctypes.addressof(self.managed), b"dltensor", None)

    def __getitem__(self, place):
        index = 0
        for position, size in zip(place, self.shape):
            index = index * size + position
        return self.numbers[index]


chance = random.Random(0)


def whole(kind, shape):
    """An array of whole numbers from -4 to 4."""
    return Array(kind, shape, [chance.randint(-4, 4) for _ in range(math.prod(shape))])


def random_pattern(rows, cols, density):
    """A pattern, and its positions in order."""
    places = [(row, col) for row in range(rows) for col in range(cols) if chance.random() < density]
    row_ptr = [0]
    for row in range(rows):
        row_ptr.append(row_ptr[-1] + sum(place[0] == row for place in places))
    columns = [col for _, col in places]
    return _core.Pattern(rows, cols, Array("i", [rows + 1], row_ptr), Array("i", [len(columns)], columns)), places


def check(name, actual, expected):
    """`expected` maps each place to its number."""
    for place, number in expected.items():
        assert actual[place] == number, f"{name}{place} is {actual[place]}, not {number}, on {_core.backend()}"


def places_of(shape):
    return itertools.product(*map(range, shape))


def linear(kind, batch, rows, cols, density):
    pattern, places = random_pattern(rows, cols, density)
    values, input, bias = whole(kind, [len(places)]), whole(kind, [batch, cols]), whole(kind, [rows])
    gradient, output = whole(kind, [batch, rows]), Array(kind, [batch, rows])
    _core.linear_forward(pattern, values, input, bias, output, 2)
    expected = {place: bias[(place[1],)] for place in places_of(output.shape)}
    to_input = dict.fromkeys(places_of(input.shape), 0)
    to_values = dict.fromkeys(places_of(values.shape), 0)
    for sample in range(batch):
        for k, (row, col) in enumerate(places):
            expected[sample, row] += values[(k,)] * input[sample, col]
            to_input[sample, col] += values[(k,)] * gradient[sample, row]
            to_values[(k,)] += input[sample, col] * gradient[sample, row]
    check("output", output, expected)
    grad_input, grad_values = Array(kind, input.shape), Array(kind, values.shape)
    _core.linear_grad_input(pattern, values, gradient, grad_input, 2)
    check("grad_input", grad_input, to_input)
    _core.linear_grad_weight(pattern, input, gradient, grad_values, 2)
    check("grad_values", grad_values, to_values)


def conv2d(kind, batch, groups, channels, outputs, size, kernel, stride, pad, dilation, density):
    per_group, area = channels // groups, kernel * kernel
    pattern, places = random_pattern(outputs, per_group * area, density)
    geometry = _core.Conv2dGeometry(
        batch=batch,
        in_channels=channels,
        in_height=size,
        in_width=size + 1,
        out_channels=outputs,
        groups=groups,
        **dict.fromkeys(["kernel_height", "kernel_width"], kernel),
        **dict.fromkeys(["stride_height", "stride_width"], stride),
        **dict.fromkeys(["pad_top", "pad_bottom", "pad_left", "pad_right"], pad),
        **dict.fromkeys(["dilation_height", "dilation_width"], dilation),
    )
    values, bias = whole(kind, [len(places)]), whole(kind, [outputs])
    input = whole(kind, [batch, channels, size, size + 1])
    output = Array(kind, [batch, outputs, geometry.out_height, geometry.out_width])
    gradient = whole(kind, output.shape)
    _core.conv2d_forward(pattern, geometry, values, input, bias, output, 2)
    expected = {place: bias[(place[1],)] for place in places_of(output.shape)}
    to_input = dict.fromkeys(places_of(input.shape), 0)
    to_values = dict.fromkeys(places_of(values.shape), 0)
    for k, (row, col) in enumerate(places):
        channel, tap = divmod(col, area)
        channel += row // (outputs // groups) * per_group
        down, right = (dilation * step - pad for step in divmod(tap, kernel))
        for sample, y, x in places_of((batch, geometry.out_height, geometry.out_width)):
            place = sample, channel, y * stride + down, x * stride + right
            if 0 <= place[2] < size and 0 <= place[3] <= size:
                expected[sample, row, y, x] += values[(k,)] * input[place]
                to_input[place] += values[(k,)] * gradient[sample, row, y, x]
                to_values[(k,)] += input[place] * gradient[sample, row, y, x]
    check("output", output, expected)
    grad_input, grad_values = Array(kind, input.shape), Array(kind, values.shape)
    _core.conv2d_grad_input(pattern, geometry, values, gradient, grad_input, 2)
    check("grad_input", grad_input, to_input)
    _core.conv2d_grad_weight(pattern, geometry, input, gradient, grad_values, 2)
    check("grad_values", grad_values, to_values)


def everything():
    for kind in "fd":
        linear(kind, 1, 37, 53, 0.3)
        linear(kind, 1, 21, 70, 0.9)
        linear(kind, 9, 13, 29, 0.4)
        conv2d(kind, 2, 1, 3, 5, 9, 3, 1, 1, 1, 0.4)
        conv2d(kind, 1, 2, 4, 6, 11, 3, 2, 2, 2, 0.5)
        conv2d(kind, 1, 6, 6, 6, 8, 3, 1, 1, 1, 0.6)  # depthwise
        conv2d(kind, 1, 1, 8, 4, 6, 1, 1, 0, 1, 0.5)


def refusals():
    """Exceptions of the core arrive as Python's."""
    pattern, places = random_pattern(4, 6, 0.5)
    good = whole("f", [len(places)]), whole("f", [2, 6]), None, Array("f", [2, 4]), 1
    for error, words, call in [
        (ValueError, "col_idx", lambda: _core.Pattern(1, 3, Array("i", [2], [0, 1]), Array("i", [1], [3]))),
        (ValueError, "input", lambda: _core.linear_forward(pattern, good[0], whole("f", [2, 5]), *good[2:])),
        (ValueError, "float32", lambda: _core.linear_forward(pattern, good[0], whole("d", [2, 6]), *good[2:])),
        (TypeError, "values", lambda: _core.linear_forward(pattern, 3, *good[1:])),
        (ValueError, "num_threads", lambda: _core.linear_forward(pattern, *good[:4], 0)),
        (ValueError, "nonsense", lambda: _core.set_backend("nonsense")),
    ]:
        try:
            call()
        except error as raised:
            assert words in str(raised), raised
        else:
            raise AssertionError(f"no {error.__name__} about {words}")
    _core.linear_forward(pattern, *good)


def from_many_threads():
    failures = []

    def work():
        try:
            conv2d("f", 1, 1, 4, 4, 8, 3, 1, 1, 1, 0.5)
            linear("f", 3, 11, 17, 0.5)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def run(code_or_module, **environment):
    command, variables = [sys.executable, *code_or_module], {**os.environ, **environment}
    where = os.path.abspath(os.sep)  # far from any sources
    return subprocess.run(
        command, cwd=where, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def the_environment_decides():
    """MPL_SPARSE_BACKEND chooses, and a bad one is refused by name."""
    for name in _core.backends():
        result = run(["-m", "mpl_sparse"], MPL_SPARSE_BACKEND=name)
        assert result.returncode == 0 and f"\nbackend:      {name}\n" in result.stdout, result.stdout
    result = run(["-m", "mpl_sparse"], MPL_SPARSE_BACKEND="nonsense")
    assert result.returncode == 1 and "nonsense" in result.stdout and "Traceback" not in result.stdout, result.stdout


def what_needs_torch_says_so():
    """Where there is none: one sentence, from whichever import."""
    if util.find_spec("torch"):
        return
    for statement in (
        "import mpl_sparse.nn",
        "from mpl_sparse.models import conv2",
        "import mpl_sparse as m; m.to_sparse",
    ):
        result = run(["-c", f"try:\n {statement}\nexcept ImportError as error: print(error)"])
        assert result.returncode == 0 and "pip install torch" in result.stdout, result.stdout
        assert result.stdout.count("\n") == 1, result.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", help="this one must have been chosen")
    parser.add_argument("--only", action="store_true", help="and there must be no other")
    options = parser.parse_args()
    chosen = _core.backend()
    print(run(["-m", "mpl_sparse"]).stdout, end="")
    assert "numpy" not in sys.modules and "torch" not in sys.modules
    if sysconfig.get_config_var("Py_GIL_DISABLED") and os.environ.get("PYTHON_GIL") != "1":
        assert not sys._is_gil_enabled(), "the import turned the GIL on"
    assert mpl_sparse.backend() == chosen and mpl_sparse.backends()[-1] == "scalar"
    if options.backend:
        assert chosen == options.backend, f"{chosen} was chosen, not {options.backend}, among {_core.backends()}"
        assert not options.only or _core.backends() == (chosen,), _core.backends()
    for name in _core.backends():
        mpl_sparse.set_backend(name)
        everything()
        from_many_threads()
        refusals()
    mpl_sparse.set_backend(chosen)
    the_environment_decides()
    what_needs_torch_says_so()
    print(f"smoke test passed: Python {sys.version.split()[0]}, chosen {chosen} of {', '.join(_core.backends())}")


if __name__ == "__main__":
    main()
