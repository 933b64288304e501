"""Hypothesis strategies: layers and inputs of every kind, empty ones, full ones and vector tails included."""

from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
from hypothesis import strategies as st

DTYPES = (np.float32, np.float64)
densities = st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 1.0])


@dataclass(frozen=True)
class LinearCase:
    batch: int
    rows: int
    cols: int
    density: float
    bias: bool
    dtype: Any
    seed: int

    def arrays(self):
        """input, dense weight (zero where the mask is False), mask, bias."""
        return _arrays(self, (self.batch, self.cols), (self.rows, self.cols))


@dataclass(frozen=True)
class Conv2dCase:
    batch: int
    groups: int
    channels: Tuple[int, int]  # in and out, a group
    size: Tuple[int, int]
    kernel: Tuple[int, int]
    stride: Tuple[int, int]
    padding: Any
    dilation: Tuple[int, int]
    density: float
    bias: bool
    dtype: Any
    seed: int

    def arrays(self):
        """input, dense weight (zero where the mask is False), mask, bias."""
        in_channels, out_channels = (count * self.groups for count in self.channels)
        return _arrays(self, (self.batch, in_channels, *self.size), (out_channels, self.channels[0], *self.kernel))

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


def _arrays(case, input_shape, weight_shape):
    rng = np.random.default_rng(case.seed)
    mask = rng.random(weight_shape) < case.density
    weight = np.where(mask, rng.standard_normal(weight_shape), 0).astype(case.dtype)
    bias = rng.standard_normal(weight_shape[0]).astype(case.dtype) if case.bias else None
    return rng.standard_normal(input_shape).astype(case.dtype), weight, mask, bias


linear_cases = st.builds(
    LinearCase,
    batch=st.sampled_from([0, 1, 2, 7, 16, 33]),
    rows=st.integers(1, 40),
    cols=st.integers(1, 70),
    density=densities,
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)


@st.composite
def conv2d_cases(draw):
    small_pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(small_pairs)
    stride = draw(small_pairs)
    paddings = [st.tuples(st.integers(0, 3), st.integers(0, 3)), st.just("valid")]
    padding = draw(st.one_of(*paddings, *([st.just("same")] if stride == (1, 1) else [])))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 40)))
    return Conv2dCase(
        batch=draw(st.sampled_from([0, 1, 1, 2, 3])),
        groups=draw(st.sampled_from([1, 1, 2, 5])),
        channels=draw(st.tuples(st.sampled_from([1, 1, 2, 3, 5]), st.integers(1, 5))),  # 1 in: depthwise
        size=(max(size[0], reach[0]), max(size[1], reach[1])),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        density=draw(densities),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
