"""The bindings: DLPack capsules taken and refused, who frees what, the GIL, the choice of a backend. numpy alone."""

import contextlib
import ctypes
import gc
import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from capsules import Destructor, Managed, ManagedVersioned, capsule_name, int64s, new_capsule

from mpl_sparse import _core

# Arrays behind capsules of any kind

CODES = {"i": 0, "u": 1, "f": 2, "c": 5}
BFLOAT, READ_ONLY = 4, 1


class Export:
    """A numpy array's memory behind `__dlpack__`, with any field replaced. Keeps the capsules that it made."""

    def __init__(self, array, *, versioned=False, name=None, major=1, minor=0, flags=0, **fields):
        self.array, self.capsules = array, []
        self.name = name if name is not None else b"dltensor_versioned" if versioned else b"dltensor"
        self.managed = ManagedVersioned(major=major, minor=minor, flags=flags) if versioned else Managed()
        tensor = self.managed.tensor
        tensor.data, tensor.device_type, tensor.lanes = array.ctypes.data, 1, 1
        tensor.code, tensor.bits = CODES[array.dtype.kind], 8 * array.itemsize
        tensor.ndim, tensor.shape = array.ndim, int64s(array.shape)
        tensor.strides = int64s([stride // array.itemsize for stride in array.strides])
        for field, value in fields.items():
            setattr(tensor, field, int64s(value) if isinstance(value, (list, tuple)) else value)

    def __dlpack__(self):
        self.capsules.append(new_capsule(ctypes.addressof(self.managed), self.name, None))
        return self.capsules[-1]


class Capsules:
    """What numpy's from_dlpack asks for, around a capsule."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return 1, 0


# Sound calls of every function

FUNCTIONS = {  # the arrays of each, the output last
    "conv2d_forward": ["values", "input", "bias", "output"],
    "conv2d_grad_input": ["values", "grad_output", "grad_input"],
    "conv2d_grad_weight": ["input", "grad_output", "grad_values"],
    "linear_forward": ["values", "input", "bias", "output"],
    "linear_grad_input": ["values", "grad_output", "grad_input"],
    "linear_grad_weight": ["input", "grad_output", "grad_values"],
}
ARGUMENTS = [(function, name) for function, names in FUNCTIONS.items() for name in names]
OUTPUTS = [(function, names[-1]) for function, names in FUNCTIONS.items()]
every_function = pytest.mark.parametrize("function", FUNCTIONS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

MASK = np.random.default_rng(1).random((3, 12)) < 0.6
UNTOUCHED = 77


def pattern_of(mask):
    row_ptr = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    return _core.Pattern(*mask.shape, row_ptr, np.nonzero(mask)[1].astype(np.int32))


def conv_geometry():
    """(2, 2, 4, 5) -> (2, 3, 3, 3), a 2x3 kernel."""
    return _core.Conv2dGeometry(
        batch=2, in_channels=2, in_height=4, in_width=5, out_channels=3, kernel_height=2, kernel_width=3
    )


def sound(function, dtype=np.float32):
    """The arrays of a call that works."""
    conv = function.startswith("conv2d")
    shapes = {
        "values": MASK.sum(),
        "grad_values": MASK.sum(),
        "bias": 3,
        "input": (2, 2, 4, 5) if conv else (2, 12),
        "grad_input": (2, 2, 4, 5) if conv else (2, 12),
        "output": (2, 3, 3, 3) if conv else (2, 3),
        "grad_output": (2, 3, 3, 3) if conv else (2, 3),
    }
    random = np.random.default_rng(2)
    arrays = {name: random.standard_normal(shapes[name]).astype(dtype) for name in FUNCTIONS[function]}
    arrays[FUNCTIONS[function][-1]].fill(UNTOUCHED)
    return arrays


def call(function, arrays, num_threads=1):
    geometry = [conv_geometry()] if function.startswith("conv2d") else []
    getattr(_core, function)(pattern_of(MASK), *geometry, *arrays.values(), num_threads)


def expected(function, arrays):
    """The same by numpy in double, over the dense weight."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    weight = np.zeros(MASK.shape)
    if "values" in arrays:
        weight[MASK] = arrays["values"]
    if function.startswith("linear"):
        if function == "linear_forward":
            return arrays["input"] @ weight.T + arrays["bias"]
        if function == "linear_grad_input":
            return arrays["grad_output"] @ weight
        return (arrays["grad_output"].T @ arrays["input"])[MASK]
    weight = weight.reshape(3, 2, 2, 3)
    result = np.zeros((2, 3, 3, 3) if function == "conv2d_forward" else (2, 2, 4, 5))
    grad_weight = np.zeros_like(weight)
    for row in range(2):
        for col in range(3):
            at = np.s_[:, :, row : row + 3, col : col + 3]
            if function == "conv2d_forward":
                result += np.einsum("nchw,oc->nohw", arrays["input"][at], weight[:, :, row, col])
            elif function == "conv2d_grad_input":
                result[at] += np.einsum("nohw,oc->nchw", arrays["grad_output"], weight[:, :, row, col])
            else:
                grad_weight[:, :, row, col] = np.einsum("nchw,nohw->oc", arrays["input"][at], arrays["grad_output"])
    if function == "conv2d_forward":
        return result + arrays["bias"].reshape(1, 3, 1, 1)
    return result if function == "conv2d_grad_input" else grad_weight.reshape(3, 12)[MASK]


def check_result(function, arrays, output):
    # At most 40 products of about unit size: far above gamma_42 * sum|w*x|, far below any wrong product.
    tolerance = 1e-4 if output.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(output, expected(function, arrays), rtol=0, atol=tolerance)


def refused(function, name, array, exception, message, dtype=np.float32, num_threads=1):
    """The call with one argument replaced raises this, naming the argument, before it writes anything."""
    arrays = sound(function, dtype)
    output = arrays[FUNCTIONS[function][-1]]
    arrays[name] = array(arrays[name]) if callable(array) else array
    with pytest.raises(exception, match=message) as caught:
        call(function, arrays, num_threads)
    assert name in str(caught.value)
    assert (output == UNTOUCHED).all()


# What is taken


@every_function
@every_dtype
def test_numpy_arrays(function, dtype, backend):
    arrays = sound(function, dtype)
    call(function, arrays)
    check_result(function, arrays, list(arrays.values())[-1])


@every_function
@pytest.mark.parametrize(
    "export",
    [
        Export,
        lambda array: Export(array, strides=None),
        lambda array: Export(array, versioned=True),
        lambda array: Export(array, versioned=True, major=1, minor=9, strides=None),
        lambda array: Export(array, data=array.ctypes.data - 4, byte_offset=4),
        lambda array: Export(array, device_id=3),
    ],
    ids=["exporter", "null strides", "versioned", "a later 1.x", "byte offset", "device id"],
)
def test_capsules(function, export):
    arrays = sound(function)
    call(function, {name: export(array) for name, array in arrays.items()})
    check_result(function, arrays, list(arrays.values())[-1])


@every_function
def test_read_only_inputs(function):
    arrays = sound(function)
    exports = {name: Export(array, versioned=True, flags=READ_ONLY) for name, array in arrays.items()}
    exports[FUNCTIONS[function][-1]] = list(arrays.values())[-1]
    call(function, exports)
    check_result(function, arrays, list(arrays.values())[-1])


@every_function
def test_strided_arrays(function):
    def strided(array):
        if array.shape == (MASK.sum(),):
            return array  # values are contiguous
        memory = np.full([3 * size for size in array.shape], UNTOUCHED, array.dtype)
        view = memory[tuple(slice(None, None, -3) for _ in array.shape)].transpose().transpose()
        view[...] = array
        return view

    arrays = {name: strided(array) for name, array in sound(function).items()}
    call(function, arrays)
    check_result(function, arrays, list(arrays.values())[-1])


def test_no_bias():
    for function in ("conv2d_forward", "linear_forward"):
        arrays = sound(function)
        call(function, dict(arrays, bias=None))
        check_result(function, dict(arrays, bias=np.zeros(3, np.float32)), arrays["output"])


def test_empty_arrays_may_have_no_data():
    pattern = pattern_of(np.zeros((3, 0), bool))

    def empty(shape):
        return Export(np.zeros(shape, np.float32), data=None)

    output = np.full((2, 3), UNTOUCHED, np.float32)
    _core.linear_forward(pattern, empty(0), empty((2, 0)), None, output, 1)
    assert (output == 0).all()
    _core.linear_grad_input(pattern, empty(0), output, empty((2, 0)), 1)
    _core.linear_grad_weight(pattern, empty((2, 0)), output, empty(0), 1)
    _core.linear_forward(pattern, empty(0), empty((0, 0)), None, empty((0, 3)), 1)


@pytest.mark.parametrize("function", ["conv2d_forward", "linear_forward"])
def test_an_empty_bias_is_not_an_absent_one(function):
    refused(
        function,
        "bias",
        lambda array: Export(array[:0], data=None),
        ValueError,
        r"bias must have shape \(3,\), got \(0,\)",
    )


def test_outputs_of_size_one_may_have_strides_of_zero():
    pattern = pattern_of(np.ones((1, 1), bool))
    output = np.zeros((1, 1), np.float32)
    one = np.ones((1, 1), np.float32)
    _core.linear_forward(pattern, one[0], one, None, Export(output, strides=[0, 0]), 1)
    assert output == 1


# What is refused


class NotExported:
    def __dlpack__(self, **_):
        return "no capsule"


CAPSULES = {
    "used": (lambda a: Export(a, name=b"used_dltensor"), BufferError, "one that was used already"),
    "used versioned": (lambda a: Export(a, versioned=True, name=b"used_dltensor_versioned"), BufferError, "used"),
    "wrong name": (lambda a: Export(a, name=b"tensor"), BufferError, "not a DLPack capsule"),
    "not a capsule": (lambda a: NotExported(), BufferError, "not a DLPack capsule"),
    "major version 2": (lambda a: Export(a, versioned=True, major=2), BufferError, r"DLPack 2\.0 is not understood"),
    "major version 0": (lambda a: Export(a, versioned=True, major=0), BufferError, r"DLPack 0\.0 is not understood"),
    "device": (lambda a: Export(a, device_type=2), BufferError, "must be on the CPU, got DLPack device type 2"),
    "lanes 2": (lambda a: Export(a, lanes=2), BufferError, "must have one lane an element, got 2"),
    "lanes 0": (lambda a: Export(a, lanes=0), BufferError, "must have one lane"),
    "no shape": (lambda a: Export(a, shape=None), BufferError, "no valid shape"),
    "rank -1": (lambda a: Export(a, ndim=-1), BufferError, "no valid shape"),
    "rank 0": (lambda a: Export(a, ndim=0), ValueError, r"must have \d dimensions?, got 0"),
    "rank 5": (lambda a: Export(a.reshape((1,) * (5 - a.ndim) + a.shape)), ValueError, "got 5"),
    "negative shape": (lambda a: Export(a, shape=[-1] * a.ndim), BufferError, "has a negative size, -1, in dim"),
    "negative shape behind a zero": (lambda a: Export(a, shape=[0, -1, 0, 0][: a.ndim]), ValueError, "must|negative"),
    "shape beyond memory": (lambda a: Export(a, shape=[2**62] * a.ndim, strides=None), BufferError, "more elements"),
    "shape product": (lambda a: Export(a, shape=[2**61, *[2**8] * (a.ndim - 1)]), BufferError, "more elements than"),
    "strides beyond memory": (lambda a: Export(a, strides=[2**62] * a.ndim), BufferError, "stride 4611686018427387904"),
    "least stride": (lambda a: Export(a, strides=[-(2**63)] * a.ndim), BufferError, "has stride -9223372036854775808"),
    "null data": (lambda a: Export(a, data=None), BufferError, "has no data"),
    "misaligned": (lambda a: Export(a, data=a.ctypes.data + 2), BufferError, "not aligned to its 4-byte elements"),
    "misaligned offset": (lambda a: Export(a, byte_offset=1), BufferError, "not aligned"),
    "a list": (lambda a: a.tolist(), TypeError, "must be an array that speaks DLPack, got list"),
    "a number": (3.0, TypeError, "must be an array that speaks DLPack, got float"),
    "a memoryview": (memoryview, TypeError, "must be an array that speaks DLPack"),
    "what numpy cannot export": (lambda a: a.astype(object), BufferError, "cannot be exported through DLPack"),
}

DTYPES = {
    "int64": dict(code=0, bits=64),
    "int32": dict(code=0, bits=32),
    "uint8": dict(code=1, bits=8),
    "float16": dict(code=2, bits=16),
    "float8": dict(code=2, bits=8),
    "bfloat16": dict(code=BFLOAT, bits=16),
    "complex64": dict(code=5, bits=64),
    "bool8": dict(code=6, bits=8),
    "code 77, bits 32": dict(code=77, bits=32),
}


@pytest.mark.parametrize("fault", CAPSULES)
@pytest.mark.parametrize("function, name", ARGUMENTS)
def test_bad_capsules(function, name, fault):
    refused(function, name, *CAPSULES[fault])


def aligned(array):
    """A copy whose memory suits elements of 16 bytes."""
    memory = np.zeros(array.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function, name", ARGUMENTS)
def test_bad_dtypes(function, name, dtype):
    refused(
        function,
        name,
        lambda array: Export(aligned(array), **DTYPES[dtype]),
        ValueError,
        f"{name} must be float32 or float64, got {dtype}",
    )


@pytest.mark.parametrize("function, name", OUTPUTS)
def test_read_only_outputs(function, name):
    refused(function, name, lambda a: Export(a, versioned=True, flags=READ_ONLY), BufferError, f"{name} is read-only")

    def frozen(array):
        array.flags.writeable = False
        return array

    refused(function, name, frozen, BufferError, "read-?only")  # numpy before 2.1 says so itself


@pytest.mark.parametrize("function, name", OUTPUTS)
def test_overlapping_outputs(function, name):
    def overlapping(array):
        return Export(array, strides=[0] * array.ndim)

    refused(function, name, overlapping, BufferError, f"{name} is to be written, but its elements overlap")


@pytest.mark.parametrize("function, name", [pair for pair in ARGUMENTS if pair[1] != FUNCTIONS[pair[0]][0]])
def test_mixed_precision(function, name):
    first = FUNCTIONS[function][0]
    refused(
        function,
        name,
        lambda a: a.astype(np.float64),
        ValueError,
        f"{name} must be float32 as {first} is, got float64",
    )
    refused(
        function,
        name,
        lambda a: a.astype(np.float32),
        ValueError,
        f"{name} must be float64 as {first} is, got float32",
        dtype=np.float64,
    )


@pytest.mark.parametrize("change", [1, -1])
@pytest.mark.parametrize("function, name", ARGUMENTS)
def test_wrong_shapes(function, name, change):
    def resized(array):
        return np.zeros((*array.shape[:-1], array.shape[-1] + change), array.dtype)

    refused(function, name, resized, ValueError, rf"{name} must have shape \(")


@pytest.mark.parametrize("function, name", [pair for pair in ARGUMENTS if pair[1].endswith("values")])
def test_values_are_contiguous(function, name):
    refused(function, name, lambda a: np.repeat(a, 2)[::2], ValueError, f"{name} must be contiguous, got stride 2")


@every_function
@pytest.mark.parametrize("num_threads", [0, -1])
def test_num_threads(function, num_threads):
    arrays = sound(function)
    with pytest.raises(ValueError, match=f"num_threads must be at least 1, got {num_threads}"):
        call(function, arrays, num_threads)
    assert (list(arrays.values())[-1] == UNTOUCHED).all()


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name.endswith("forward")])
def test_activation(function, backend):
    plain, fused = sound(function), sound(function)
    geometry = [conv_geometry()] if function.startswith("conv2d") else []
    call(function, plain)
    getattr(_core, function)(pattern_of(MASK), *geometry, *fused.values(), 1, activation="relu")
    assert (plain["output"] < 0).any()
    np.testing.assert_array_equal(fused["output"], np.maximum(plain["output"], 0))
    for activation, exception, message in [
        ("gelu", ValueError, "activation must be 'none' or 'relu', got 'gelu'"),
        (True, TypeError, "activation must be a str, got bool"),
        (None, TypeError, "activation must be a str, got NoneType"),
    ]:
        arrays = sound(function)
        with pytest.raises(exception, match=message):
            getattr(_core, function)(pattern_of(MASK), *geometry, *arrays.values(), 1, activation)
        assert (arrays["output"] == UNTOUCHED).all()


@every_function
def test_pattern_and_geometry_are_of_their_types(function):
    arrays = list(sound(function).values())
    conv = function.startswith("conv2d")
    for pattern in (None, MASK, 3):
        with pytest.raises(TypeError, match="pattern"):
            getattr(_core, function)(pattern, *([conv_geometry()] if conv else []), *arrays, 1)
    if conv:
        with pytest.raises(TypeError, match="geometry"):
            getattr(_core, function)(pattern_of(MASK), None, *arrays, 1)
    never_made = _core.Pattern.__new__(_core.Pattern)
    with pytest.raises(ValueError, match="pattern was never initialised"):
        getattr(_core, function)(never_made, *([conv_geometry()] if conv else []), *arrays, 1)


INDEX_FAULTS = {fault: CAPSULES[fault] for fault in CAPSULES if fault not in ("negative shape behind a zero",)}


@pytest.mark.parametrize("name", ["row_ptr", "col_idx"])
@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_bad_index_capsules(name, fault):
    spoil, exception, message = INDEX_FAULTS[fault]
    arrays = {"row_ptr": np.array([0, 2, 4], np.int32), "col_idx": np.array([0, 1, 1, 2], np.int32)}
    arrays[name] = spoil(arrays[name]) if callable(spoil) else spoil
    with pytest.raises(exception, match=message) as caught:
        _core.Pattern(2, 3, **arrays)
    assert name in str(caught.value)


def test_indices_are_contiguous_int32():
    row_ptr, col_idx = np.array([0, 1, 2], np.int32), np.array([0, 2], np.int32)
    for bad in (row_ptr.astype(np.int64), row_ptr.astype(np.uint32), row_ptr.astype(np.float32)):
        with pytest.raises(ValueError, match=f"row_ptr must be int32, got {bad.dtype}"):
            _core.Pattern(2, 3, bad, col_idx)
    with pytest.raises(ValueError, match="col_idx must be contiguous, got stride 2"):
        _core.Pattern(2, 3, row_ptr, np.repeat(col_idx, 2)[::2])
    with pytest.raises(ValueError, match="col_idx must have 1 dimension, got 2"):
        _core.Pattern(2, 3, row_ptr, col_idx[None])
    with pytest.raises(ValueError, match=r"col_idx must lie in \[0, 2\), got 2 in row 1"):
        _core.Pattern(2, 2, row_ptr, col_idx)
    with pytest.raises(ValueError, match="row_ptr must have rows \\+ 1 = 4 entries, got 3"):
        _core.Pattern(3, 3, row_ptr, col_idx)


def test_geometry_is_validated():
    sizes = dict(batch=1, in_channels=4, in_height=5, in_width=5, out_channels=4, kernel_height=3, kernel_width=3)
    for name, value in [("stride_width", 0), ("batch", -1), ("groups", 3), ("kernel_height", 6), ("pad_left", 2**31)]:
        with pytest.raises(ValueError, match=name if name != "groups" else "multiple of groups"):
            _core.Conv2dGeometry(**dict(sizes, **{name: value}))
    # Taps times output channels are 32-bit positions of the gradient to the input.
    with pytest.raises(ValueError, match="out_channels / groups"):
        _core.Conv2dGeometry(**dict(sizes, out_channels=2**29, kernel_width=5))


def test_a_geometry_is_frozen():
    geometry = conv_geometry()
    sizes = dict(batch=1, in_channels=1, in_height=1, in_width=1, out_channels=1, kernel_height=1, kernel_width=1)
    with pytest.raises(TypeError, match="a Conv2dGeometry is frozen"):
        geometry.__init__(**sizes)
    assert (geometry.out_height, geometry.out_width) == (3, 3)


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name.startswith("conv2d")])
def test_a_geometry_that_was_never_initialised_is_refused(function):
    geometry = _core.Conv2dGeometry.__new__(_core.Conv2dGeometry)
    with pytest.raises(ValueError, match="geometry was never initialised"):
        getattr(_core, function)(pattern_of(MASK), geometry, *sound(function).values(), 1)
    with pytest.raises(ValueError, match="geometry was never initialised"):
        _ = geometry.out_height


def test_enormous_strides():
    """Once these wrote beyond a table of the gradient to the input."""
    geometry = _core.Conv2dGeometry(
        batch=1, in_channels=16, in_height=2, in_width=2, out_channels=2, kernel_height=1, kernel_width=1,
        stride_height=2**30, stride_width=2**30,
    )  # fmt: skip
    values, grad_output = np.arange(32, dtype=np.float32), np.ones((1, 2, 1, 1), np.float32)
    grad_input = np.full((1, 16, 2, 2), UNTOUCHED, np.float32)
    _core.conv2d_grad_input(pattern_of(np.ones((2, 16), bool)), geometry, values, grad_output, grad_input, 1)
    assert (grad_input[0, :, 0, 0] == values.reshape(2, 16).sum(0)).all()
    assert (grad_input[0, :, 1] == 0).all() and (grad_input[0, :, 0, 1] == 0).all()


# Who owns what


@every_function
@pytest.mark.parametrize("versioned", [False, True])
def test_capsules_are_not_consumed(function, versioned):
    """A capsule that is lent keeps its name, serves again, and dies with its owner, who frees the memory: once."""
    arrays, freed = sound(function), []
    free = Destructor(freed.append)
    exports = [Export(array, versioned=versioned) for array in arrays.values()]
    capsules = {
        name: new_capsule(ctypes.addressof(export.managed), export.name, ctypes.cast(free, ctypes.c_void_p))
        for name, export in zip(arrays, exports)
    }
    addresses = sorted(id(capsule) for capsule in capsules.values())
    for _ in range(3):
        call(function, capsules)
        assert all(capsule_name(capsule) == exports[0].name for capsule in capsules.values())
    gc.collect()
    assert freed == []
    capsules.clear()
    assert sorted(freed) == addresses
    check_result(function, arrays, list(arrays.values())[-1])


@every_function
def test_a_call_keeps_no_capsule(function):
    """Neither one that succeeds nor one that is refused."""
    exports = {name: Export(array) for name, array in sound(function).items()}
    call(function, exports)
    last = FUNCTIONS[function][-1]
    exports[last].managed.tensor.lanes = 2
    with pytest.raises(BufferError, match=last):
        call(function, exports)
    for export in exports.values():
        held = [object(), *export.capsules]  # all that holds them
        export.capsules.clear()
        assert len(held) == 3
        assert len({sys.getrefcount(held[i]) for i in range(3)}) == 1


def test_index_capsules_are_arrays():
    pattern = pattern_of(MASK)
    row_ptr = np.from_dlpack(Capsules(pattern.row_ptr()))
    col_idx = np.from_dlpack(Capsules(pattern.col_idx()))
    transposed, order = pattern.transpose()
    order = np.from_dlpack(Capsules(order))
    assert row_ptr.dtype == col_idx.dtype == order.dtype == np.int32
    assert row_ptr.tolist() == [0, *np.cumsum(MASK.sum(1))]
    assert col_idx.tolist() == np.nonzero(MASK)[1].tolist()
    assert (transposed.rows, transposed.cols, transposed.nnz) == (12, 3, MASK.sum())
    rows, cols = np.nonzero(MASK)
    assert np.from_dlpack(Capsules(transposed.col_idx())).tolist() == rows[order].tolist()
    assert (np.diff(cols[order]) >= 0).all()
    del pattern  # the arrays are copies
    gc.collect()
    assert row_ptr[0] == 0
    del transposed
    assert np.from_dlpack(Capsules(pattern_of(np.zeros((2, 3), bool)).col_idx())).shape == (0,)


def test_a_capsule_is_consumed_once():
    capsule = pattern_of(MASK).row_ptr()
    np.from_dlpack(Capsules(capsule))
    assert capsule_name(capsule) == b"used_dltensor"
    with pytest.raises(BufferError, match="row_ptr: not a DLPack capsule, or one that was used already"):
        _core.Pattern(3, 12, capsule, np.zeros(0, np.int32))


def test_index_capsules_do_not_leak():
    """Each loop hands out 800 MB of capsules, consumed or not."""
    count = 1_000_000
    pattern = _core.Pattern(1, count, np.array([0, count], np.int32), np.arange(count, dtype=np.int32))
    np.from_dlpack(Capsules(pattern.transpose()[1]))
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for _ in range(100):
        pattern.col_idx()
        pattern.transpose()
    for _ in range(100):
        np.from_dlpack(Capsules(pattern.col_idx()))
        np.from_dlpack(Capsules(pattern.transpose()[1]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 100e6


def test_a_pattern_is_frozen():
    pattern = pattern_of(MASK)
    with pytest.raises(TypeError, match="frozen"):
        pattern.__init__(1, 1, np.zeros(2, np.int32), np.zeros(0, np.int32))
    assert (pattern.rows, pattern.cols, pattern.nnz) == (3, 12, MASK.sum())
    for name in ("rows", "cols", "nnz", "anything"):
        with pytest.raises(AttributeError):
            setattr(pattern, name, 1)
    col_idx = np.array([0, 1], np.int32)
    pattern = _core.Pattern(1, 3, np.array([0, 2], np.int32), col_idx)
    col_idx[:] = 99
    assert np.from_dlpack(Capsules(pattern.col_idx())).tolist() == [0, 1]
    for use in ("row_ptr", "col_idx", "transpose"):
        with pytest.raises(ValueError, match="pattern was never initialised"):
            getattr(_core.Pattern.__new__(_core.Pattern), use)()


def test_a_transpose_outlives_its_pattern():
    pattern = pattern_of(MASK)
    transposed, _ = pattern.transpose()
    del pattern
    gc.collect()
    again, _ = transposed.transpose()
    assert np.from_dlpack(Capsules(again.col_idx())).tolist() == np.nonzero(MASK)[1].tolist()


# Threads


def test_the_gil_is_released():
    """While one thread computes, another one runs Python: it ticks in the middle of the kernel's time."""
    size, batch, interval = 1000, 100, (0.0, 0.0)
    pattern = pattern_of(np.ones((size, size), bool))
    values = np.zeros(size * size, np.float32)
    while True:
        input, output = np.zeros((batch, size), np.float32), np.zeros((batch, size), np.float32)
        times = []

        def compute(arrays=(pattern, values, input, None, output, 1), times=times):
            times.append(time.perf_counter())
            _core.linear_forward(*arrays)
            times.append(time.perf_counter())

        thread = threading.Thread(target=compute)
        ticks = []
        thread.start()
        while thread.is_alive():
            ticks.append(time.perf_counter())
            time.sleep(0.001)
        thread.join()
        interval = times[1] - times[0]
        if interval > 0.1:
            break
        batch *= 2
    begin, end = times[0] + interval / 4, times[1] - interval / 4
    assert any(begin < tick < end for tick in ticks)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_pattern_from_several_threads(function, backend):
    pattern, results = pattern_of(MASK), []
    geometry = [conv_geometry()] if function.startswith("conv2d") else []

    def work():
        arrays = sound(function)
        for _ in range(50):
            getattr(_core, function)(pattern, *geometry, *arrays.values(), 2)
        results.append(list(arrays.values())[-1].tobytes())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and len(set(results)) == 1


# The choice of a backend


@contextlib.contextmanager
def backend_restored():
    before = _core.backend()
    try:
        yield
    finally:
        _core.set_backend(before)


def test_backends():
    names = _core.backends()
    assert isinstance(names, tuple) and names[-1] == "scalar" and len(set(names)) == len(names)
    assert isinstance(_core.cpu_features(), tuple)
    assert 1 <= _core.cpu_count() <= (os.cpu_count() or 1)
    with backend_restored():
        for name in names:
            _core.set_backend(name)
            assert _core.backend() == name
        _core.set_backend("auto")
        assert _core.backend() == names[0]
        for bad in ("abacus", "", "Scalar"):
            with pytest.raises(ValueError, match=rf"name must be auto or a backend .*scalar\), got '{bad}'"):
                _core.set_backend(bad)
        for bad in (None, 3, b"scalar"):
            with pytest.raises(TypeError):
                _core.set_backend(bad)
        assert _core.backend() == names[0]


def python(code, backend):
    env = dict(os.environ, MPL_SPARSE_BACKEND=backend)
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


SHOW = "from mpl_sparse import _core; print(_core.backend())"


@pytest.mark.parametrize("name", _core.backends())
def test_the_environment_forces_a_backend(name):
    assert python(SHOW, name) == name
    assert python("from mpl_sparse import _core; _core.set_backend('scalar'); print(_core.backend())", name) == "scalar"


@pytest.mark.parametrize("name", ["", "auto"])
def test_the_environment_leaves_the_choice(name):
    assert python(SHOW, name) == _core.backends()[0]


def test_an_unknown_backend_is_refused_at_first_use():
    assert python(
        """
import numpy as np
import mpl_sparse
from mpl_sparse import _core

def refuses(use):
    try:
        use()
    except ValueError as error:
        assert "the environment variable MPL_SPARSE_BACKEND must be auto or a backend" in str(error), error
        assert "scalar), got 'abacus'" in str(error), error
    else:
        raise AssertionError("nothing was raised")

assert mpl_sparse.backends()[-1] == "scalar"
pattern = _core.Pattern(1, 1, np.array([0, 1], np.int32), np.array([0], np.int32))
for batch in (1, 2):
    one, output = np.ones((batch, 1), np.float32), np.full((batch, 1), 77, np.float32)
    refuses(lambda: _core.linear_forward(pattern, one[0], one, None, output, 1))
    assert (output == 77).all()
refuses(_core.backend)
_core.set_backend("scalar")
_core.linear_forward(pattern, one[0], one, None, output, 1)
print(_core.backend(), output[0, 0])
""",
        "abacus",
    ) == "scalar 1.0"  # fmt: skip
