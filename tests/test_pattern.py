"""Pattern: construction, content, identity, and each refusal."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpl_sparse.pattern import INT32_MAX, Pattern

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=6))


@given(masks)
def test_mask_round_trip(mask):
    pattern = Pattern.from_mask(mask)
    assert np.array_equal(pattern.to_mask(), mask) and pattern.to_mask().dtype == np.bool_
    assert pattern.shape == mask.shape and pattern.rows * pattern.cols == mask.size
    assert pattern.nnz == mask.sum() and pattern.density == (mask.mean() if mask.size else 0.0)
    assert np.array_equal(pattern.flat_positions(), np.flatnonzero(mask))


@given(masks)
def test_csr_round_trip(mask):
    pattern = Pattern.from_mask(mask)
    for dtype in (np.int32, np.int64):
        again = Pattern.from_csr(pattern.row_ptr.astype(dtype), pattern.col_idx.astype(dtype), list(mask.shape))
        assert again == pattern and hash(again) == hash(pattern) and again.id == pattern.id


@given(masks)
def test_transpose(mask):
    pattern = Pattern.from_mask(mask)
    transposed = pattern.transpose()
    assert transposed is pattern.transpose()
    assert np.array_equal(transposed.to_mask(), mask.reshape(pattern.rows, pattern.cols).T)


@given(masks, st.randoms(use_true_random=False))
def test_keep_and_locate(mask, random):
    pattern = Pattern.from_mask(mask)
    kept = np.array([random.random() < 0.5 for _ in range(pattern.nnz)], np.bool_)
    part = pattern.keep(kept)
    assert np.array_equal(pattern.locate(part), np.flatnonzero(kept))
    back = part.locate(pattern)
    assert np.array_equal(back[kept], np.arange(part.nnz)) and np.all(back[~kept] == -1)


@given(masks)
def test_copies_and_pickles(mask):
    pattern = Pattern.from_mask(mask)
    assert copy.copy(pattern) is pattern and copy.deepcopy([pattern])[0] is pattern
    assert pickle.loads(pickle.dumps(pattern)) == pattern


def test_from_dense_keeps_nan_and_drops_both_zeros():
    dense = np.array([[0.0, -0.0, np.nan], [np.inf, 1e-45, 0]], np.float32)
    assert np.array_equal(Pattern.from_dense(dense).to_mask(), [[False, False, True], [True, True, False]])


def test_immutable():
    pattern = Pattern.from_mask(np.eye(3, dtype=bool))
    for name in ("shape", "nnz", "row_ptr", "col_idx", "id", "handle", "anything"):
        with pytest.raises(AttributeError):
            setattr(pattern, name, None)
    for array in (pattern.row_ptr, pattern.col_idx):
        assert array.dtype == np.int32
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    mask = np.eye(2, dtype=bool)
    before = Pattern.from_mask(mask)
    mask[:] = True
    assert before.nnz == 2


def test_identity_is_content():
    eye = Pattern.from_mask(np.eye(4, dtype=bool))
    assert eye == Pattern.from_mask(np.eye(4, dtype=bool)) and eye != Pattern.from_mask(np.ones((4, 4), bool))
    assert eye.id != Pattern.from_mask(np.eye(4, dtype=bool).reshape(4, 2, 2)).id
    assert eye != "eye" and len({eye, Pattern.from_mask(np.eye(4, dtype=bool))}) == 1


def test_id_is_the_same_everywhere():
    assert Pattern.from_mask(np.eye(2, dtype=bool)).id == "725d8289d3f06d4be795e2f8749173c5"


def test_repr():
    assert repr(Pattern.from_mask(np.eye(4, dtype=bool))) == "Pattern(shape=(4, 4), nnz=4, density=0.25)"


def test_non_contiguous_and_foreign_arrays():
    mask = np.random.default_rng(0).random((6, 8)) < 0.5
    assert Pattern.from_mask(mask.T) == Pattern.from_mask(mask.T.copy())
    assert Pattern.from_mask(mask[::-2, ::3]) == Pattern.from_mask(mask[::-2, ::3].copy())
    pattern = Pattern.from_mask(mask)
    ptr, idx = pattern.row_ptr.astype(">i8"), np.repeat(pattern.col_idx, 2)[::2]
    assert Pattern.from_csr(ptr, idx, mask.shape) == pattern


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Pattern.from_mask([[True]]), TypeError, "mask must be a numpy array or a torch tensor, got list"),
        (lambda: Pattern.from_mask(np.ones((2, 2))), TypeError, "mask must be bool, got float64"),
        (lambda: Pattern.from_mask(np.ones(2, bool)), ValueError, r"mask must have at least 2 dimensions.*\(2,\)"),
        (lambda: Pattern.from_dense("x"), TypeError, "dense must be a numpy array"),
        (lambda: Pattern.from_dense(np.ones(3)), ValueError, "dense must have at least 2"),
        (lambda: csr([0, 1], [0], (1,)), ValueError, r"shape must have at least 2 dimensions, got \(1,\)"),
        (lambda: csr([0, 1], [0], (1, 2.5)), TypeError, "shape must be a sequence of integers"),
        (lambda: csr([0, 1], [0], (1, -2)), ValueError, "shape must have rows and columns"),
        (lambda: csr([0], [], (0, INT32_MAX + 1)), ValueError, "shape must have rows and columns"),
        (lambda: csr([0], [], (0, 2**20, 2**20)), ValueError, "shape must have rows and columns"),
        (lambda: csr([0, 1], [0], (2, 2)), ValueError, r"row_ptr must have shape \(3,\) for 2 rows, got \(2,\)"),
        (lambda: csr([0, 2**40], [0], (1, 2)), ValueError, "row_ptr must lie in"),
        (lambda: csr([0, 1], [-1], (1, 2)), ValueError, "col_idx must lie in"),
        (lambda: csr([0, 1], [[0]], (1, 2)), ValueError, "col_idx must have 1 dimension"),
        (lambda: csr([0, 1], [0.0], (1, 2)), TypeError, "col_idx must hold integers, got float64"),
        (lambda: csr([0, 1], [2], (1, 2)), ValueError, "col_idx"),
        (lambda: csr([0, 2], [1, 1], (1, 2)), ValueError, "col_idx"),
        (lambda: csr([0, 2], [1, 0], (1, 2)), ValueError, "col_idx"),
        (lambda: csr([1, 1], [], (1, 2)), ValueError, "row_ptr"),
        (lambda: csr([0, 2, 1], [0], (2, 2)), ValueError, "row_ptr"),
        (lambda: csr([0, 1], [0, 1], (1, 2)), ValueError, "row_ptr"),
        (lambda: csr([0, 1], [0], (1, 2)).keep(np.ones(2, bool)), ValueError, "kept must be bool"),
        (lambda: csr([0, 1], [0], (1, 2)).keep(np.ones(1)), ValueError, "kept must be bool"),
        (lambda: csr([0, 1], [0], (1, 2)).locate(csr([0, 1], [0], (1, 3))), ValueError, r"other has shape \(1, 3\)"),
    ],
)
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()


def csr(row_ptr, col_idx, shape):
    indices = np.array(col_idx) if col_idx else np.array([], np.int64)
    return Pattern.from_csr(np.array(row_ptr), indices, shape)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    mask = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    pattern = Pattern.from_mask(mask)
    assert torch.equal(pattern.to_mask(), mask) and pattern == Pattern.from_mask(mask.numpy())
    assert torch.equal(pickle.loads(pickle.dumps(pattern)).to_mask(), mask)
    again = Pattern.from_csr(torch.tensor(pattern.row_ptr), torch.tensor(pattern.col_idx), mask.shape)
    assert torch.equal(again.to_mask(), mask)
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        assert Pattern.from_dense(mask.to(dtype)) == pattern
    assert Pattern.from_dense(mask.double().requires_grad_()) == pattern
    with pytest.raises(ValueError, match="mask must be a dense CPU tensor"):
        Pattern.from_mask(mask.to("meta"))
    with pytest.raises(ValueError, match="dense must be a dense CPU tensor"):
        Pattern.from_dense(torch.eye(3).to_sparse())
