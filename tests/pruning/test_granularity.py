"""Units by arithmetic on flat positions, against labels painted on an array."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mpl_sparse.pruning import NM, Block, Filter, Kernel, Weight  # noqa: E402
from mpl_sparse.pruning.granularity import find_granularity  # noqa: E402

shapes = st.one_of(
    st.tuples(*[st.integers(0, 7)] * 2),
    st.tuples(*[st.integers(0, 4)] * 4),
)


def label(granularity, shape, index):
    out, inputs = index[:2]
    if isinstance(granularity, Block):
        return (out // granularity.rows, int(np.ravel_multi_index(index[1:], shape[1:])) // granularity.cols)
    if isinstance(granularity, NM):
        return (out, inputs // granularity.m, index[2:])
    if isinstance(granularity, Kernel) and len(shape) == 4:
        return index[:2]
    return index if isinstance(granularity, Weight) else out


def painted(granularity, shape):
    """For each position of the weight a label of its unit, index by index."""
    labels = np.empty(shape, object)
    for index in np.ndindex(*shape):
        labels[index] = label(granularity, shape, index)
    return labels.reshape(-1)


granularities = st.one_of(
    st.sampled_from([Weight(), Kernel(), Filter()]),
    st.builds(Block, st.integers(1, 5), st.integers(1, 5)),
    st.builds(NM, st.just(1), st.integers(1, 5)),
)


@given(shapes, granularities, st.randoms())
def test_units(shape, granularity, random):
    labels = painted(granularity, shape)
    chosen = torch.tensor([place for place in range(labels.size) if random.random() < 0.6], dtype=torch.int64)
    numbers = (granularity.groups if isinstance(granularity, NM) else granularity.units)(torch.Size(shape), chosen)
    assert numbers.dtype == torch.int64 and numbers.shape == chosen.shape
    named = {}
    for place, number in zip(chosen.tolist(), numbers.tolist()):
        assert number >= 0
        assert named.setdefault(labels[place], number) == number
    assert len(set(named.values())) == len(named)
    # the layers of a pool are told apart by this
    assert not isinstance(granularity, Block) or all(number <= labels.size for number in named.values())


def test_names():
    assert find_granularity("row") == find_granularity("filter") == Filter()
    assert find_granularity(Block(2, 3)) == Block(2, 3)
    with pytest.raises(ValueError, match=r"granularity must be one of \['filter', .*got 'atom'"):
        find_granularity("atom")
    with pytest.raises(TypeError, match="granularity must be a name, .*got 3"):
        find_granularity(3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Block(0, 1), ValueError, "rows must be at least 1, got 0"),
        (lambda: Block(1, 1.5), TypeError, "cols must be an integer, got 1.5"),
        (lambda: NM(3, 2), ValueError, "n must be at most m, got n=3, m=2"),
        (lambda: NM(-1, 2), ValueError, "n must be at least 0, got -1"),
        (lambda: NM(0, 0), ValueError, "m must be at least 1, got 0"),
        (lambda: NM(True, 2), TypeError, "n must be an integer, got True"),
    ],
)
def test_bad_sizes(make, error, words):
    with pytest.raises(error, match=words):
        make()
