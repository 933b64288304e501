# distutils: language = c++
# cython: language_level=3, binding=False, freethreading_compatible=True
"""The C++ core: each function unwraps DLPack, calls the header's function with the GIL released, and wraps."""

from cpython.pycapsule cimport PyCapsule_CheckExact, PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cython.operator cimport dereference
from libc.stdint cimport INT64_MAX, uintptr_t


ctypedef const float const_float
ctypedef const double const_double
ctypedef const int64_t const_int64
ctypedef const uint8_t const_uint8


cdef enum:
    CPU = 1               # kDLCPU
    INTEGER = 0           # kDLInt
    UNSIGNED = 1          # kDLUInt
    FLOATING = 2          # kDLFloat
    READ_ONLY = 1         # DLPACK_FLAG_BITMASK_READ_ONLY
    MAJOR_VERSION = 1
    VECTOR = 1            # ranks
    MATRIX = 2
    IMAGES = 4


cdef class Arrays:
    """The arrays of one call: keeps their capsules alive, and sees to it that they have one floating-point dtype."""
    cdef list capsules
    cdef int bits          # 0 until the first floating-point array
    cdef str first_name

    def __cinit__(self):
        self.capsules = []
        self.bits = 0

    cdef const DLTensor* reads(self, str name, object array, int rank) except? NULL:
        return self.floating(name, self.borrow(name, array, False), rank)

    cdef const DLTensor* reads_optional(self, str name, object array, int rank) except? NULL:
        if array is None:
            return NULL
        return self.reads(name, array, rank)

    cdef const DLTensor* writes(self, str name, object array, int rank) except? NULL:
        return self.floating(name, self.borrow(name, array, True), rank)

    cdef const DLTensor* indices(self, str name, object array) except? NULL:
        return check_packed(name, self.borrow(name, array, False), INTEGER, 32)

    cdef const DLTensor* positions(self, str name, object array, bint writable) except? NULL:
        return check_packed(name, self.borrow(name, array, writable), INTEGER, 64)

    cdef const DLTensor* octets(self, str name, object array, bint writable) except? NULL:
        return check_packed(name, self.borrow(name, array, writable), UNSIGNED, 8)

    cdef const DLTensor* floating(self, str name, const DLTensor* tensor, int rank) except? NULL:
        if tensor.dtype.code != FLOATING or (tensor.dtype.bits != 32 and tensor.dtype.bits != 64):
            raise ValueError(f"{name} must be float32 or float64, got {dtype_name(tensor)}")
        if self.bits == 0:
            self.bits = tensor.dtype.bits
            self.first_name = name
        elif self.bits != tensor.dtype.bits:
            raise ValueError(f"{name} must be float{self.bits} as {self.first_name} is, got {dtype_name(tensor)}")
        check_rank(name, tensor, rank)
        return tensor

    cdef const DLTensor* borrow(self, str name, object array, bint writable) except? NULL:
        cdef DLManagedTensorVersioned* versioned
        cdef const DLTensor* tensor
        cdef uint64_t flags = 0
        capsule = capsule_of(name, array)
        if PyCapsule_IsValid(capsule, b"dltensor"):
            tensor = &(<DLManagedTensor*> PyCapsule_GetPointer(capsule, b"dltensor")).dl_tensor
        elif PyCapsule_IsValid(capsule, b"dltensor_versioned"):
            versioned = <DLManagedTensorVersioned*> PyCapsule_GetPointer(capsule, b"dltensor_versioned")
            if versioned.version.major != MAJOR_VERSION:
                raise BufferError(
                    f"{name}: DLPack {versioned.version.major}.{versioned.version.minor} is not understood, only {MAJOR_VERSION}.x"
                )
            flags = versioned.flags
            tensor = &versioned.dl_tensor
        else:
            raise BufferError(f"{name}: not a DLPack capsule, or one that was used already: {capsule!r}")
        self.capsules.append(capsule)
        check_tensor(name, tensor)
        if writable:
            if flags & READ_ONLY:
                raise BufferError(f"{name} is read-only, and is to be written")
            check_writable(name, tensor)
        return tensor


cdef object capsule_of(str name, object array):
    if PyCapsule_CheckExact(array):
        return array
    export = getattr(array, "__dlpack__", None)
    if export is None:
        raise TypeError(f"{name} must be an array that speaks DLPack, got {type(array).__name__}")
    try:
        try:
            return export(max_version=(MAJOR_VERSION, 0))
        except TypeError:  # an exporter from before DLPack 1.0
            return export()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise BufferError(f"{name} cannot be exported through DLPack: {error}") from error


cdef str dtype_name(const DLTensor* tensor):
    kinds = {0: "int", 1: "uint", 2: "float", 3: "handle", 4: "bfloat", 5: "complex", 6: "bool"}
    return f"{kinds.get(tensor.dtype.code, 'code %d, bits ' % tensor.dtype.code)}{tensor.dtype.bits}"


cdef int check_rank(str name, const DLTensor* tensor, int rank) except -1:
    if tensor.ndim != rank:
        raise ValueError(f"{name} must have {rank} dimension{'s' if rank > 1 else ''}, got {tensor.ndim}")
    return 0


cdef const DLTensor* check_packed(str name, const DLTensor* tensor, int code, int bits) except? NULL:
    if tensor.dtype.code != code or tensor.dtype.bits != bits:
        raise ValueError(f"{name} must be {'int' if code == INTEGER else 'uint'}{bits}, got {dtype_name(tensor)}")
    check_rank(name, tensor, VECTOR)
    if tensor.strides != NULL and tensor.shape[0] > 1 and tensor.strides[0] != 1:
        raise ValueError(f"{name} must be contiguous, got stride {tensor.strides[0]}")
    return tensor


cdef int check_tensor(str name, const DLTensor* tensor) except -1:
    cdef int64_t elements = 1, reach = 0, size, stride
    cdef int axis
    if tensor.device.device_type != CPU:
        raise BufferError(f"{name} must be on the CPU, got DLPack device type {tensor.device.device_type}")
    if tensor.dtype.lanes != 1:
        raise BufferError(f"{name} must have one lane an element, got {tensor.dtype.lanes}")
    if tensor.ndim < 0 or (tensor.ndim > 0 and tensor.shape == NULL):
        raise BufferError(f"{name} has no valid shape: {tensor.ndim} dimensions")
    cdef int64_t item_bytes = (tensor.dtype.bits + 7) // 8
    for axis in range(tensor.ndim):
        size = tensor.shape[axis]
        if size < 0:
            raise BufferError(f"{name} has a negative size, {size}, in dimension {axis}")
        if size == 0:
            return 0
    cdef int64_t most = INT64_MAX // (item_bytes if item_bytes > 0 else 1)
    for axis in range(tensor.ndim):
        size = tensor.shape[axis]
        if elements > most // size:
            raise BufferError(f"{name} has more elements than memory can hold")
        elements *= size
        if tensor.strides != NULL:
            stride = tensor.strides[axis]
            if stride < -INT64_MAX:
                raise BufferError(f"{name} has stride {stride} in dimension {axis}, beyond what memory can hold")
            if stride < 0:
                stride = -stride
            if size > 1 and stride > (most - reach) // (size - 1):
                raise BufferError(f"{name} has stride {tensor.strides[axis]} in dimension {axis}, beyond what memory can hold")
            reach += stride * (size - 1)
    if tensor.data == NULL:
        raise BufferError(f"{name} has no data")
    if item_bytes > 0 and (<uintptr_t> tensor.data + tensor.byte_offset) % <uint64_t> item_bytes != 0:
        raise BufferError(f"{name} is not aligned to its {item_bytes}-byte elements")
    return 0


cdef int check_writable(str name, const DLTensor* tensor) except -1:
    cdef int axis
    if tensor.strides == NULL:
        return 0
    for axis in range(tensor.ndim):
        if tensor.shape[axis] == 0:  # numpy gives empty arrays strides of 0
            return 0
    for axis in range(tensor.ndim):
        if tensor.shape[axis] > 1 and tensor.strides[axis] == 0:
            raise BufferError(f"{name} is to be written, but its elements overlap in dimension {axis}")
    return 0


cdef int checked_threads(object num_threads) except -1:
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    return min(num_threads, 1024)


cdef void release(object capsule) noexcept:
    # A consumer renames the capsule and takes over; otherwise the copy dies with it.
    cdef DLManagedTensor* managed
    if PyCapsule_IsValid(capsule, b"dltensor"):
        managed = <DLManagedTensor*> PyCapsule_GetPointer(capsule, b"dltensor")
        managed.deleter(managed)


cdef object int32_capsule(const int32_t* data, int64_t size):
    cdef DLManagedTensor* managed = dlpack_copy_int32(data, size)
    if managed == NULL:
        raise MemoryError(f"no memory for {size} indices")
    return PyCapsule_New(managed, b"dltensor", release)


cdef class Pattern:
    cdef shared_ptr[const CppPattern] handle

    def __init__(self, rows, cols, row_ptr, col_idx):
        arrays = Arrays()
        cdef const DLTensor* row_ptr_tensor = arrays.indices("row_ptr", row_ptr)
        cdef const DLTensor* col_idx_tensor = arrays.indices("col_idx", col_idx)
        cdef int64_t row_count = rows, col_count = cols
        cdef shared_ptr[const CppPattern]* made = NULL
        cdef Failure failure
        with nogil:
            failure = cpp_pattern_from_csr(
                &made, row_count, col_count, dlpack_data[int32_t](row_ptr_tensor), row_ptr_tensor.shape[0],
                dlpack_data[int32_t](col_idx_tensor), col_idx_tensor.shape[0]
            )
        raise_failure(failure)
        if not adopt(self.handle, made):
            raise TypeError("a Pattern is frozen: make a new one")

    @property
    def rows(self):
        return handle_of(self).rows()

    @property
    def cols(self):
        return handle_of(self).cols()

    @property
    def nnz(self):
        return handle_of(self).nnz()

    def row_ptr(self):
        return int32_capsule(handle_of(self).row_ptr(), handle_of(self).rows() + 1)

    def col_idx(self):
        return int32_capsule(handle_of(self).col_idx(), handle_of(self).nnz())

    def transpose(self):
        cdef const CppPattern* handle = handle_of(self)
        cdef const CppTransposedPattern* transposed = NULL
        cdef Failure failure
        with nogil:
            failure = cpp_transposed(&transposed, dereference(handle))
        raise_failure(failure)
        cdef Pattern result = Pattern.__new__(Pattern)
        share(result.handle, transposed)
        return result, int32_capsule(transposed.order.data(), <int64_t> transposed.order.size())


cdef const CppPattern* handle_of(Pattern pattern) except NULL:
    if pattern.handle.get() == NULL:
        raise ValueError("pattern was never initialised")
    return pattern.handle.get()


cdef class Conv2dGeometry:
    cdef unique_ptr[const CppValidConv2dGeometry] handle

    def __init__(self, *, batch, in_channels, in_height, in_width, out_channels, kernel_height, kernel_width,
                 stride_height=1, stride_width=1, pad_top=0, pad_bottom=0, pad_left=0, pad_right=0,
                 dilation_height=1, dilation_width=1, groups=1):
        cdef CppConv2dGeometry sizes
        sizes.batch = batch
        sizes.in_channels = in_channels
        sizes.in_height = in_height
        sizes.in_width = in_width
        sizes.out_channels = out_channels
        sizes.kernel_height = kernel_height
        sizes.kernel_width = kernel_width
        sizes.stride_height = stride_height
        sizes.stride_width = stride_width
        sizes.pad_top = pad_top
        sizes.pad_bottom = pad_bottom
        sizes.pad_left = pad_left
        sizes.pad_right = pad_right
        sizes.dilation_height = dilation_height
        sizes.dilation_width = dilation_width
        sizes.groups = groups
        if self.handle.get() != NULL:
            raise TypeError("a Conv2dGeometry is frozen: make a new one")
        self.handle.reset(new CppValidConv2dGeometry(sizes))

    @property
    def out_height(self):
        return sizes_of(self).sizes().out_height()

    @property
    def out_width(self):
        return sizes_of(self).sizes().out_width()


cdef const CppValidConv2dGeometry* sizes_of(Conv2dGeometry geometry) except NULL:
    if geometry.handle.get() == NULL:
        raise ValueError("geometry was never initialised")
    return geometry.handle.get()


cdef CppActivation activation_of(activation) except *:
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a str, got {type(activation).__name__}")
    if activation == "none":
        return CppActivation.none
    if activation == "relu":
        return CppActivation.relu
    raise ValueError(f"activation must be 'none' or 'relu', got {activation!r}")


def conv2d_forward(Pattern pattern not None, Conv2dGeometry geometry not None, values, input, bias, output, num_threads,
                   activation="none"):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const CppValidConv2dGeometry* sizes = sizes_of(geometry)
    cdef const DLTensor* v = arrays.reads("values", values, VECTOR)
    cdef const DLTensor* x = arrays.reads("input", input, IMAGES)
    cdef const DLTensor* b = arrays.reads_optional("bias", bias, VECTOR)
    cdef const DLTensor* y = arrays.writes("output", output, IMAGES)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef CppActivation act = activation_of(activation)
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_conv2d_forward[float](
                dereference(handle), dereference(sizes), dlpack_vector[const_float](v), dlpack_images[const_float](x),
                dlpack_vector[const_float](b), dlpack_images[float](y), threads, act
            )
        else:
            failure = cpp_conv2d_forward[double](
                dereference(handle), dereference(sizes), dlpack_vector[const_double](v), dlpack_images[const_double](x),
                dlpack_vector[const_double](b), dlpack_images[double](y), threads, act
            )
    raise_failure(failure)


def conv2d_grad_input(Pattern pattern not None, Conv2dGeometry geometry not None, values, grad_output, grad_input, num_threads):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const CppValidConv2dGeometry* sizes = sizes_of(geometry)
    cdef const DLTensor* v = arrays.reads("values", values, VECTOR)
    cdef const DLTensor* gy = arrays.reads("grad_output", grad_output, IMAGES)
    cdef const DLTensor* gx = arrays.writes("grad_input", grad_input, IMAGES)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_conv2d_grad_input[float](
                dereference(handle), dereference(sizes), dlpack_vector[const_float](v), dlpack_images[const_float](gy),
                dlpack_images[float](gx), threads
            )
        else:
            failure = cpp_conv2d_grad_input[double](
                dereference(handle), dereference(sizes), dlpack_vector[const_double](v), dlpack_images[const_double](gy),
                dlpack_images[double](gx), threads
            )
    raise_failure(failure)


def conv2d_grad_weight(Pattern pattern not None, Conv2dGeometry geometry not None, input, grad_output, grad_values, num_threads):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const CppValidConv2dGeometry* sizes = sizes_of(geometry)
    cdef const DLTensor* x = arrays.reads("input", input, IMAGES)
    cdef const DLTensor* gy = arrays.reads("grad_output", grad_output, IMAGES)
    cdef const DLTensor* gv = arrays.writes("grad_values", grad_values, VECTOR)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_conv2d_grad_weight[float](
                dereference(handle), dereference(sizes), dlpack_images[const_float](x), dlpack_images[const_float](gy),
                dlpack_vector[float](gv), threads
            )
        else:
            failure = cpp_conv2d_grad_weight[double](
                dereference(handle), dereference(sizes), dlpack_images[const_double](x), dlpack_images[const_double](gy),
                dlpack_vector[double](gv), threads
            )
    raise_failure(failure)


def linear_forward(Pattern pattern not None, values, input, bias, output, num_threads, activation="none"):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const DLTensor* v = arrays.reads("values", values, VECTOR)
    cdef const DLTensor* x = arrays.reads("input", input, MATRIX)
    cdef const DLTensor* b = arrays.reads_optional("bias", bias, VECTOR)
    cdef const DLTensor* y = arrays.writes("output", output, MATRIX)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef CppActivation act = activation_of(activation)
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_linear_forward[float](
                dereference(handle), dlpack_vector[const_float](v), dlpack_matrix[const_float](x),
                dlpack_vector[const_float](b), dlpack_matrix[float](y), threads, act
            )
        else:
            failure = cpp_linear_forward[double](
                dereference(handle), dlpack_vector[const_double](v), dlpack_matrix[const_double](x),
                dlpack_vector[const_double](b), dlpack_matrix[double](y), threads, act
            )
    raise_failure(failure)


def linear_grad_input(Pattern pattern not None, values, grad_output, grad_input, num_threads):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const DLTensor* v = arrays.reads("values", values, VECTOR)
    cdef const DLTensor* gy = arrays.reads("grad_output", grad_output, MATRIX)
    cdef const DLTensor* gx = arrays.writes("grad_input", grad_input, MATRIX)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_linear_grad_input[float](
                dereference(handle), dlpack_vector[const_float](v), dlpack_matrix[const_float](gy),
                dlpack_matrix[float](gx), threads
            )
        else:
            failure = cpp_linear_grad_input[double](
                dereference(handle), dlpack_vector[const_double](v), dlpack_matrix[const_double](gy),
                dlpack_matrix[double](gx), threads
            )
    raise_failure(failure)


def linear_grad_weight(Pattern pattern not None, input, grad_output, grad_values, num_threads):
    arrays = Arrays()
    cdef const CppPattern* handle = handle_of(pattern)
    cdef const DLTensor* x = arrays.reads("input", input, MATRIX)
    cdef const DLTensor* gy = arrays.reads("grad_output", grad_output, MATRIX)
    cdef const DLTensor* gv = arrays.writes("grad_values", grad_values, VECTOR)
    cdef int threads = checked_threads(num_threads), bits = arrays.bits
    cdef Failure failure
    with nogil:
        if bits == 32:
            failure = cpp_linear_grad_weight[float](
                dereference(handle), dlpack_matrix[const_float](x), dlpack_matrix[const_float](gy), dlpack_vector[float](gv), threads
            )
        else:
            failure = cpp_linear_grad_weight[double](
                dereference(handle), dlpack_matrix[const_double](x), dlpack_matrix[const_double](gy), dlpack_vector[double](gv), threads
            )
    raise_failure(failure)


cdef CppCoding coding_of(kind, bint zeros, int64_t divisor) except *:
    cdef CppCoding coding
    coding.zeros = zeros
    coding.divisor = divisor
    if kind == "bitmap":
        coding.kind = CppCodingKind.bitmap
    elif kind == "huffman":
        coding.kind = CppCodingKind.huffman
    elif kind == "golomb":
        coding.kind = CppCodingKind.golomb
    else:
        raise ValueError(f"kind must be 'bitmap', 'huffman' or 'golomb', got {kind!r}")
    return coding


cdef class PositionEncoder:
    cdef unique_ptr[CppPositionEncoder] handle
    cdef Arrays arrays

    def __init__(self, positions, int64_t numel, kind=None, bint zeros=False, int64_t divisor=0):
        arrays = Arrays()
        cdef const DLTensor* p = arrays.positions("positions", positions, False)
        cdef CppCoding coding
        cdef const CppCoding* chosen = NULL
        if kind is not None:
            coding = coding_of(kind, zeros, divisor)
            chosen = &coding
        cdef CppPositionEncoder* made = NULL
        cdef Failure failure
        with nogil:
            failure = cpp_position_encoder(&made, dlpack_data[const_int64](p), p.shape[0], numel, chosen)
        raise_failure(failure)
        self.arrays = arrays
        self.handle.reset(made)

    @property
    def coding(self):
        cdef const CppCoding* coding = &encoder_of(self).coding()
        kinds = {<int> CppCodingKind.bitmap: "bitmap", <int> CppCodingKind.huffman: "huffman"}
        return kinds.get(<int> coding.kind, "golomb"), coding.zeros, coding.divisor

    @property
    def size(self):
        return encoder_of(self).size()

    def write(self, packed):
        arrays = Arrays()
        cdef const DLTensor* out = arrays.octets("packed", packed, True)
        cdef const CppPositionEncoder* encoder = encoder_of(self)
        cdef Failure failure
        with nogil:
            failure = cpp_write_positions(dereference(encoder), dlpack_data[uint8_t](out), out.shape[0])
        raise_failure(failure)


cdef const CppPositionEncoder* encoder_of(PositionEncoder encoder) except NULL:
    if encoder.handle.get() == NULL:
        raise ValueError("encoder was never initialised")
    return encoder.handle.get()


cdef class PositionDecoder:
    cdef unique_ptr[CppPositionDecoder] handle
    cdef Arrays arrays

    def __init__(self, packed, int64_t nnz, int64_t numel, kind not None, bint zeros=False, int64_t divisor=0):
        arrays = Arrays()
        cdef const DLTensor* p = arrays.octets("packed", packed, False)
        cdef CppCoding coding = coding_of(kind, zeros, divisor)
        cdef CppPositionDecoder* made = NULL
        cdef Failure failure
        with nogil:
            failure = cpp_position_decoder(&made, dlpack_data[const_uint8](p), p.shape[0], nnz, numel, coding)
        raise_failure(failure)
        self.arrays = arrays
        self.handle.reset(made)

    def read(self, positions):
        arrays = Arrays()
        cdef const DLTensor* out = arrays.positions("positions", positions, True)
        cdef CppPositionDecoder* decoder = self.handle.get()
        cdef int64_t count = 0
        cdef Failure failure
        if decoder == NULL:
            raise ValueError("decoder was never initialised")
        with nogil:
            failure = cpp_read_positions(&count, dereference(decoder), dlpack_data[int64_t](out), out.shape[0])
        raise_failure(failure)
        return count


def backends():
    return tuple(name.decode() for name in cpp_backends())


def backend():
    return cpp_backend().decode()


def set_backend(str name not None):
    cpp_set_backend(name.encode())


def tuning():
    return cpp_tuning()


def set_tuning(bint on):
    cpp_set_tuning(on)


def cpu_count():
    return cpp_cpu_count()


def cpu_features():
    return tuple(name.decode() for name in cpp_cpu_features())


def set_team(uintptr_t address):
    cpp_set_team(<Team> address)


def team():
    return <uintptr_t> cpp_team()
