"""linear and conv2d on numpy arrays, on every backend, against the dense oracle. Needs no torch."""

import itertools
import math
import os
import signal
import struct
import subprocess
import sys
import threading

import numpy as np
import oracle
import pytest
from hypothesis import given
from samples import conv2d_cases, linear_cases

from mpl_sparse import functional, threads
from mpl_sparse.geometry import pads
from mpl_sparse.pattern import Pattern

pytestmark = pytest.mark.usefixtures("backend")


def expected_conv2d(case, input, weight, bias):
    margins = pads(case.padding, case.kernel, case.stride, case.dilation)
    output = oracle.conv2d(input, weight, bias, case.stride, margins, case.dilation, case.groups)
    magnitude = oracle.conv2d(
        np.abs(input),
        np.abs(weight),
        None if bias is None else np.abs(bias),
        case.stride,
        margins,
        case.dilation,
        case.groups,
    )
    return output, magnitude


@given(linear_cases)
def test_linear(case):
    input, weight, mask, bias = case.arrays()
    actual = functional.linear(input, weight[mask], Pattern.from_mask(mask), bias)
    assert actual.dtype == case.dtype
    magnitude = oracle.linear(np.abs(input), np.abs(weight), None if bias is None else np.abs(bias))
    oracle.assert_within(actual, oracle.linear(input, weight, bias), magnitude, case.cols + 1)


@given(conv2d_cases())
def test_conv2d(case):
    input, weight, mask, bias = case.arrays()
    actual = functional.conv2d(input, weight[mask], Pattern.from_mask(mask), bias, **case.options)
    assert actual.dtype == case.dtype
    oracle.assert_within(actual, *expected_conv2d(case, input, weight, bias), oracle.conv_terms(weight, bias))


def small_conv2d():
    rng = np.random.default_rng(0)
    mask = rng.random((4, 3, 3, 3)) < 0.5
    values = rng.standard_normal(mask.sum()).astype(np.float32)
    return rng.standard_normal((2, 3, 6, 5)).astype(np.float32), values, Pattern.from_mask(mask)


def unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)[1:]
    shifted = raw.view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


def in_records(array):
    records = np.zeros(array.shape, [("value", array.dtype), ("tag", np.uint8)])
    records["value"] = array
    return records["value"]


def read_only(array):
    frozen = array.copy()
    frozen.flags.writeable = False
    return frozen


@pytest.mark.parametrize(
    "disguise",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
        read_only,
        unaligned,
        in_records,
    ],
)
def test_any_memory_layout(disguise):
    input, values, pattern = small_conv2d()
    same = functional.conv2d(disguise(input), disguise(values), pattern, padding=1)
    assert np.array_equal(same, functional.conv2d(input, values, pattern, padding=1))
    matrix = Pattern.from_csr(pattern.row_ptr, pattern.col_idx, (4, 27))
    rows = np.resize(input, (5, 27))
    same = functional.linear(disguise(rows), disguise(values), matrix)
    assert np.array_equal(same, functional.linear(rows, values, matrix))


def test_broadcast_and_channels_last_inputs():
    input, values, pattern = small_conv2d()
    images = np.broadcast_to(input[0], (3, *input[0].shape))
    assert np.array_equal(functional.conv2d(images, values, pattern), functional.conv2d(images.copy(), values, pattern))
    last = np.ascontiguousarray(input.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(functional.conv2d(last, values, pattern), functional.conv2d(input, values, pattern))


def test_unbatched_and_matrix_patterns():
    input, values, pattern = small_conv2d()
    batch = functional.conv2d(input[:1], values, pattern)
    assert np.array_equal(functional.conv2d(input[0], values, pattern), batch[0])
    matrix = Pattern.from_csr(pattern.row_ptr, pattern.col_idx, (4, 27))
    assert np.array_equal(functional.conv2d(input[:1], values, matrix, kernel_size=3), batch)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0, 3), (2, 0, 3), (2, 1, 2)])
def test_linear_of_any_rank(shape):
    rng = np.random.default_rng(0)
    mask = rng.random((5, 7)) < 0.5
    values, input = rng.standard_normal(mask.sum()), rng.standard_normal((*shape, 7))
    pattern = Pattern.from_mask(mask)
    rows = functional.linear(input.reshape(math.prod(shape), 7), values, pattern)
    assert np.array_equal(functional.linear(input, values, pattern), rows.reshape(*shape, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_rules(dtype):
    """A pruned weight never touches the input; a stored zero does."""
    mask = np.zeros((2, 3), bool)
    mask[0, :2] = mask[1, 2] = True
    pattern = Pattern.from_mask(mask)
    values = np.array([1, 0, 1], dtype)
    for bad in (np.nan, np.inf):
        assert np.array_equal(np.isnan(linear_row([1, bad, 1], values, pattern, dtype)), [True, False])
        assert linear_row([1, 2, bad], values, pattern, dtype)[0] == 1
        image = np.array([1, bad, 1], dtype).reshape(1, 3, 1, 1)
        output = functional.conv2d(np.tile(image, (1, 1, 4, 40)), values, pattern, kernel_size=1)
        assert np.isnan(output[:, 0]).all() and np.all(output[:, 1] == 1)


def linear_row(row, values, pattern, dtype):
    return functional.linear(np.array(row, dtype), values, pattern)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_numbers(dtype, backend):
    """They count like all others, except that NEON on 32-bit ARM takes those of float32 for zeros."""
    smallest = np.finfo(dtype).smallest_normal
    row = np.array([smallest / 4, smallest / 2, 3 * smallest / 8, 1], dtype)
    pattern = Pattern.from_mask(np.eye(4, dtype=bool))
    output = linear_row(row, np.array([1, 0.5, 2, 1], dtype), pattern, dtype)
    expected = np.array([smallest / 4, smallest / 4, 3 * smallest / 4, 1], dtype)
    if backend == "neon" and struct.calcsize("P") == 4 and dtype == np.float32:
        assert np.all((output == expected) | (output == 0)) and output[3] == 1
    else:
        assert np.array_equal(output, expected)
    image = np.tile(row.reshape(1, 4, 1, 1), (1, 1, 5, 9))
    images = functional.conv2d(image, np.array([1, 0.5, 2, 1], dtype), pattern, kernel_size=1)
    assert np.array_equal(images, np.tile(output.reshape(1, 4, 1, 1), (1, 1, 5, 9)))


@pytest.fixture
def restored_threads():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bitwise_equal_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    mask = rng.random((64, 32, 3, 3)) < 0.2
    values = rng.standard_normal(mask.sum()).astype(dtype)
    images, rows = rng.standard_normal((2, 32, 30, 31)).astype(dtype), rng.standard_normal((65, 288)).astype(dtype)
    matrix = Pattern.from_mask(mask.reshape(64, -1))
    results = []
    for count in (1, 2, 3, 4):
        threads.set_num_threads(count)
        results.append(
            (
                functional.conv2d(images, values, Pattern.from_mask(mask), padding=1).tobytes(),
                functional.linear(rows, values, matrix).tobytes(),
            )
        )
    assert len(set(results)) == 1


@pytest.mark.usefixtures("restored_threads")
def test_number_of_threads(monkeypatch):
    threads.set_num_threads(3)
    assert threads.get_num_threads() == 3
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(error, match="num_threads"):
            threads.set_num_threads(bad)
    monkeypatch.setattr(threads, "_num_threads", None)
    monkeypatch.setenv("MPL_SPARSE_NUM_THREADS", "2")
    assert threads.get_num_threads() == 2
    for text in ("0", "-1", "many", ""):
        monkeypatch.setattr(threads, "_num_threads", None)
        monkeypatch.setenv("MPL_SPARSE_NUM_THREADS", text)
        with pytest.raises(ValueError, match="MPL_SPARSE_NUM_THREADS"):
            threads.get_num_threads()
    monkeypatch.delenv("MPL_SPARSE_NUM_THREADS")
    assert threads.get_num_threads() >= 1


f32 = np.float32


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"input": [1.0]}, TypeError, "input must be a numpy array"),
        ({"input": np.ones((1, 3, 6, 5), np.float16)}, TypeError, "input must be float32 or float64, got float16"),
        ({"input": np.ones((1, 3, 6, 5))}, TypeError, "one dtype"),
        (
            {"input": np.ones((1, 4, 6, 5), f32)},
            ValueError,
            r"input must be \(batch, 3, height, width\).*\(1, 4, 6, 5\)",
        ),
        ({"input": np.ones((6, 5), f32)}, ValueError, "input must be"),
        ({"input": np.ones((1, 3, 2, 5), f32)}, ValueError, "kernel_size"),
        ({"values": np.ones(3, f32)}, ValueError, "values must have shape"),
        ({"values": None}, TypeError, "values must be"),
        ({"values": np.ones(3, np.int64)}, TypeError, "values must be float32 or float64, got int64"),
        ({"pattern": np.eye(3)}, TypeError, "pattern must be a mpl_sparse.Pattern, got ndarray"),
        ({"bias": np.ones(3, f32)}, ValueError, r"bias must have shape \(4,\), got \(3,\)"),
        ({"bias": 1.0}, TypeError, "bias must be"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": (1, 2, 3)}, ValueError, "stride must be an integer or a pair"),
        ({"stride": 1.0}, TypeError, "stride must be an integer, got 1.0"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": "full"}, ValueError, "padding must be .* got 'full'"),
        ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1"),
        ({"stride": 2**70}, ValueError, "stride must be at most 2147483647, got"),
        ({"dilation": 9}, ValueError, "kernel_size .* dilation"),
        ({"groups": 0}, ValueError, "groups must be at least 1"),
        ({"groups": 3}, ValueError, r"input must be \(batch, 9"),
        ({"groups": 3, "input": np.ones((1, 9, 6, 5), f32)}, ValueError, "groups must divide"),
        ({"kernel_size": (2, 3)}, ValueError, r"kernel_size \(2, 3\) is not that of the pattern"),
    ],
)
def test_conv2d_refusals(changes, error, words):
    input, values, pattern = small_conv2d()
    with pytest.raises(error, match=words):
        functional.conv2d(**{"input": input, "values": values, "pattern": pattern, **changes})


def test_fork_while_another_thread_makes_plans():
    _, values, pattern = small_conv2d()
    done = threading.Event()

    def make_plans():
        heights = itertools.cycle(range(6, 60))
        while not done.is_set():
            shape = (1, pattern.shape[1], next(heights), 5)
            functional.conv2d(np.ones(shape, values.dtype), values, pattern)

    thread = threading.Thread(target=make_plans)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # a child that hangs is killed, and so reported
                functional.conv2d(np.ones((1, pattern.shape[1], 100, 5), values.dtype), values, pattern)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        thread.join()


def test_kernel_size_of_a_matrix_pattern():
    input, values, pattern = small_conv2d()
    matrix = Pattern.from_csr(pattern.row_ptr, pattern.col_idx, (4, 27))
    with pytest.raises(ValueError, match="kernel_size is needed"):
        functional.conv2d(input, values, matrix)
    with pytest.raises(ValueError, match=r"kernel_size \(2, 2\) does not divide"):
        functional.conv2d(input, values, matrix, kernel_size=2)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (
            {"input": np.ones((2, 6), f32)},
            ValueError,
            r"input must have 7 features in its last dimension, got shape \(2, 6\)",
        ),
        ({"input": np.float32(1)}, TypeError, "input must be a numpy array"),
        ({"input": np.array(1, f32)}, ValueError, "input must have 7 features"),
        ({"values": np.ones((1, 3), f32)}, ValueError, "values must have shape"),
        ({"bias": np.ones((5, 1), f32)}, ValueError, "bias must have shape"),
        ({"pattern": None}, TypeError, "pattern must be"),
    ],
)
def test_linear_refusals(changes, error, words):
    pattern = Pattern.from_mask(np.random.default_rng(0).random((5, 7)) < 0.5)
    arguments = {"input": np.ones((2, 7), f32), "values": np.ones(pattern.nnz, f32), "pattern": pattern}
    with pytest.raises(error, match=words):
        functional.linear(**{**arguments, **changes})


ENDLESS = """
import threading, numpy as np
from mpl_sparse import Pattern, functional
rng = np.random.default_rng(0)
pattern = Pattern.from_mask(rng.random((64, 32, 3, 3)) < 0.5)
values, images = np.ones(pattern.nnz, np.float32), np.ones((1, 32, 9, 9), np.float32)
def forever():
    while True:
        functional.conv2d(images, values, pattern)
        Pattern.from_csr(pattern.row_ptr, pattern.col_idx, pattern.shape).transpose()
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
functional.conv2d(images, values, pattern)
"""


def test_the_process_ends_while_threads_compute():
    """Up to 3.13 Python unwinds a daemon thread that asks for the GIL then: no frame of the bindings may mind."""
    for _ in range(8):
        result = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, (result.returncode, result.stderr)
