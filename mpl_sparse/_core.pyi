"""The C++ core, one function per header function.

Arrays are DLPack exporters (numpy arrays, torch CPU tensors) or DLPack capsules. All floating-point arrays of one call
are float32, or all are float64. Every function raises TypeError, ValueError, or BufferError for a capsule that is not
what it says, before it writes anything. Outputs are overwritten whole. The GIL is released while computing.
"""

from typing import Any, Optional, Tuple

Array = Any
Capsule = Any

class Pattern:
    """Validated, frozen CSR positions of a (rows, cols) matrix, with its kernel plans.

    row_ptr: int32 (rows + 1,); col_idx: int32 (nnz,), strictly increasing within a row. Both are copied.
    """

    def __init__(self, rows: int, cols: int, row_ptr: Array, col_idx: Array) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    def row_ptr(self) -> Capsule:
        """A fresh copy, int32 (rows + 1,)."""
    def col_idx(self) -> Capsule:
        """A fresh copy, int32 (nnz,)."""
    def transpose(self) -> Tuple[Pattern, Capsule]:
        """The transposed pattern and `order`, int32 (nnz,): the transpose's values are `values[order]`."""

class Conv2dGeometry:
    """The sizes of one convolution, validated once and frozen. Sizes and strides count elements."""

    def __init__(
        self,
        *,
        batch: int,
        in_channels: int,
        in_height: int,
        in_width: int,
        out_channels: int,
        kernel_height: int,
        kernel_width: int,
        stride_height: int = 1,
        stride_width: int = 1,
        pad_top: int = 0,
        pad_bottom: int = 0,
        pad_left: int = 0,
        pad_right: int = 0,
        dilation_height: int = 1,
        dilation_width: int = 1,
        groups: int = 1,
    ) -> None: ...
    @property
    def out_height(self) -> int: ...
    @property
    def out_width(self) -> int: ...

# A convolution's pattern has rows = out_channels and cols = in_channels / groups * kernel_height * kernel_width.
# Inputs and outputs are (batch, channels, height, width) of any strides; values and grad_values are (nnz,), contiguous.
# activation, "none" or "relu", is applied to what a forward stores.
def conv2d_forward(
    pattern: Pattern,
    geometry: Conv2dGeometry,
    values: Array,
    input: Array,
    bias: Optional[Array],
    output: Array,
    num_threads: int,
    activation: str = "none",
) -> None: ...
def conv2d_grad_input(
    pattern: Pattern,
    geometry: Conv2dGeometry,
    values: Array,
    grad_output: Array,
    grad_input: Array,
    num_threads: int,
) -> None: ...
def conv2d_grad_weight(
    pattern: Pattern,
    geometry: Conv2dGeometry,
    input: Array,
    grad_output: Array,
    grad_values: Array,
    num_threads: int,
) -> None: ...

# A linear layer's pattern has rows = out_features and cols = in_features.
# Inputs and outputs are (batch, features) of any strides.
def linear_forward(
    pattern: Pattern,
    values: Array,
    input: Array,
    bias: Optional[Array],
    output: Array,
    num_threads: int,
    activation: str = "none",
) -> None: ...
def linear_grad_input(
    pattern: Pattern, values: Array, grad_output: Array, grad_input: Array, num_threads: int
) -> None: ...
def linear_grad_weight(
    pattern: Pattern, input: Array, grad_output: Array, grad_values: Array, num_threads: int
) -> None: ...

class PositionEncoder:
    """Positions, int64 (nnz,), strictly increasing in [0, numel), about to become bytes.

    In the smallest coding if no kind is given, else in that of "bitmap", "huffman" or "golomb". The positions are kept,
    not copied. For one thread at a time, as is PositionDecoder.
    """

    def __init__(
        self, positions: Array, numel: int, kind: Optional[str] = None, zeros: bool = False, divisor: int = 0
    ) -> None: ...
    @property
    def coding(self) -> Tuple[str, bool, int]:
        """(kind, zeros, divisor)."""
    @property
    def size(self) -> int:
        """Bytes."""
    def write(self, packed: Array) -> None:
        """Fill `packed`, uint8 (size,)."""

class PositionDecoder:
    """The nnz positions below numel that `packed`, uint8 1-D, holds. ValueError, here or in `read`, if it does not."""

    def __init__(
        self, packed: Array, nnz: int, numel: int, kind: str, zeros: bool = False, divisor: int = 0
    ) -> None: ...
    def read(self, positions: Array) -> int:
        """Write the next positions to `positions`, int64 1-D; how many. Fewer than fit only at the end, then 0."""

def backends() -> Tuple[str, ...]:
    """The backends that this machine can run, best first."""

def backend() -> str:
    """The backend in use. ValueError when MPL_SPARSE_BACKEND names one that this machine cannot run."""

def set_backend(name: str) -> None:
    """Use the named backend from now on; "auto" is the best one. ValueError for one that this machine cannot run."""

def tuning() -> bool:
    """Whether a layer's first dozen calls try several tiles and keep the fastest. Off where MPL_SPARSE_TUNING is 0."""

def set_tuning(on: bool) -> None:
    """Turn that on or off for what is planned from now on: patterns and input shapes that no call has seen.

    Outputs and gradients to the input hold the same bits either way; gradients of weights are not tuned.
    """

def cpu_count() -> int:
    """The cores this process may run on."""

def cpu_features() -> Tuple[str, ...]:
    """The instruction sets that the choice of a backend looks at, those this machine has."""

def set_team(address: int) -> None:
    """Compute on the threads of the function at this address, a GOMP_parallel; 0 is the core's own pool.

    It holds for this process, not for children that it forks.
    """

def team() -> int:
    """The address of the function whose threads are in use; 0 for the core's own pool."""
