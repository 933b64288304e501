"""The choice of tiles by measurement: on and off, and no bit of a result that depends on it."""

import os
import subprocess
import sys

import numpy as np
import pytest

import mpl_sparse
from mpl_sparse import Pattern, functional

CALLS = 16  # more than tuning takes


@pytest.fixture
def tuned():
    """Tuning on before and after."""
    mpl_sparse.set_tuning(True)
    yield
    mpl_sparse.set_tuning(True)


@pytest.mark.parametrize("shape, kernel", [((2, 20, 40, 40), 3), ((3, 40, 19, 23), 1), ((1, 3, 64, 64), 7)])
def test_every_call_gives_the_bits_of_an_untuned_one(backend, tuned, shape, kernel):
    rng = np.random.default_rng(1)
    mask = rng.random((30, shape[1], kernel, kernel)) < 0.3
    images = rng.standard_normal(shape).astype(np.float32)
    values = rng.standard_normal(mask.sum()).astype(np.float32)
    mpl_sparse.set_tuning(False)
    expected = functional.conv2d(images, values, Pattern.from_mask(mask), padding="same")
    mpl_sparse.set_tuning(True)
    pattern = Pattern.from_mask(mask)
    for _ in range(CALLS):
        assert functional.conv2d(images, values, pattern, padding="same").tobytes() == expected.tobytes()


def test_batches_of_different_sizes_in_turn(backend, tuned):
    rng = np.random.default_rng(2)
    mask = rng.random((70, 90)) < 0.3
    values = rng.standard_normal(mask.sum()).astype(np.float32)
    rows = rng.standard_normal((200, 90)).astype(np.float32)
    pattern = Pattern.from_mask(mask)
    expected = {batch: functional.linear(rows[:batch], values, pattern) for batch in (2, 33, 100, 200)}
    for _ in range(CALLS):
        for batch, output in expected.items():
            assert functional.linear(rows[:batch], values, pattern).tobytes() == output.tobytes()


def test_set_tuning(tuned):
    assert mpl_sparse.tuning() is True
    mpl_sparse.set_tuning(False)
    assert mpl_sparse.tuning() is False


@pytest.mark.parametrize("setting, on", [(None, True), ("1", True), ("0", False)])
def test_the_environment_variable(setting, on):
    environment = {name: value for name, value in os.environ.items() if name != "MPL_SPARSE_TUNING"}
    if setting is not None:
        environment["MPL_SPARSE_TUNING"] = setting
    code = "import mpl_sparse; print(mpl_sparse.tuning())"
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(on)
