# The core's headers, declaration by declaration; what may throw without the GIL, through guarded.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector


cdef extern from "dlpack.h" nogil:
    ctypedef struct DLDevice:
        int32_t device_type

    ctypedef struct DLDataType:
        uint8_t code
        uint8_t bits
        uint16_t lanes

    ctypedef struct DLTensor:
        void* data
        DLDevice device
        int32_t ndim
        DLDataType dtype
        int64_t* shape
        int64_t* strides
        uint64_t byte_offset

    ctypedef struct DLManagedTensor:
        DLTensor dl_tensor
        void (*deleter)(DLManagedTensor*) noexcept

    ctypedef struct DLPackVersion:
        uint32_t major
        uint32_t minor

    ctypedef struct DLManagedTensorVersioned:
        DLPackVersion version
        uint64_t flags
        DLTensor dl_tensor


cdef extern from "mpl_sparse/tensor.h" namespace "mpl_sparse" nogil:
    cdef cppclass Vector[Scalar]:
        pass

    cdef cppclass Matrix[Scalar]:
        pass

    cdef cppclass Images[Scalar]:
        pass


cdef extern from "dlpack.h" namespace "mpl_sparse" nogil:
    T* dlpack_data[T](const DLTensor*)
    Vector[T] dlpack_vector[T](const DLTensor*)
    Matrix[T] dlpack_matrix[T](const DLTensor*)
    Images[T] dlpack_images[T](const DLTensor*)
    DLManagedTensor* dlpack_copy_int32(const int32_t*, int64_t)


cdef extern from "mpl_sparse/activation.h" namespace "mpl_sparse" nogil:
    cdef enum class CppActivation "mpl_sparse::Activation":
        none
        relu


cdef extern from "mpl_sparse/pattern.h" namespace "mpl_sparse" nogil:
    cdef cppclass CppPattern "mpl_sparse::Pattern":
        int64_t rows()
        int64_t cols()
        int64_t nnz()
        const int32_t* row_ptr()
        const int32_t* col_idx()

    cdef cppclass CppTransposedPattern "mpl_sparse::TransposedPattern":
        shared_ptr[const CppPattern] pattern
        vector[int32_t] order


cdef extern from "mpl_sparse/conv2d.h" namespace "mpl_sparse" nogil:
    cdef cppclass CppConv2dGeometry "mpl_sparse::Conv2dGeometry":
        int64_t batch
        int64_t in_channels
        int64_t in_height
        int64_t in_width
        int64_t out_channels
        int64_t kernel_height
        int64_t kernel_width
        int64_t stride_height
        int64_t stride_width
        int64_t pad_top
        int64_t pad_bottom
        int64_t pad_left
        int64_t pad_right
        int64_t dilation_height
        int64_t dilation_width
        int64_t groups
        int64_t out_height()
        int64_t out_width()

    cdef cppclass CppValidConv2dGeometry "mpl_sparse::ValidConv2dGeometry":
        CppValidConv2dGeometry(const CppConv2dGeometry&) except +
        const CppConv2dGeometry& sizes()


cdef extern from "mpl_sparse/codec.h" namespace "mpl_sparse" nogil:
    cdef enum CppCodingKind "mpl_sparse::Coding::Kind":
        bitmap "mpl_sparse::Coding::bitmap"
        huffman "mpl_sparse::Coding::huffman"
        golomb "mpl_sparse::Coding::golomb"

    cdef cppclass CppCoding "mpl_sparse::Coding":
        CppCodingKind kind
        bint zeros
        int64_t divisor

    cdef cppclass CppPositionEncoder "mpl_sparse::PositionEncoder":
        const CppCoding& coding()
        int64_t size()

    cdef cppclass CppPositionDecoder "mpl_sparse::PositionDecoder":
        pass


cdef extern from "guarded.h" namespace "mpl_sparse::guarded" nogil:
    cdef cppclass Failure:
        pass

    Failure cpp_position_encoder "mpl_sparse::guarded::position_encoder" (
        CppPositionEncoder** made, const int64_t* positions, int64_t nnz, int64_t numel, const CppCoding* coding
    ) noexcept
    Failure cpp_write_positions "mpl_sparse::guarded::write_positions" (
        const CppPositionEncoder&, uint8_t* packed, int64_t size
    ) noexcept
    Failure cpp_position_decoder "mpl_sparse::guarded::position_decoder" (
        CppPositionDecoder** made, const uint8_t* packed, int64_t size, int64_t nnz, int64_t numel, const CppCoding&
    ) noexcept
    Failure cpp_read_positions "mpl_sparse::guarded::read_positions" (
        int64_t* count, CppPositionDecoder&, int64_t* positions, int64_t capacity
    ) noexcept

    Failure cpp_pattern_from_csr "mpl_sparse::guarded::pattern_from_csr" (
        shared_ptr[const CppPattern]** made, int64_t rows, int64_t cols, const int32_t* row_ptr, int64_t row_ptr_size,
        const int32_t* col_idx, int64_t nnz
    ) noexcept
    bint adopt(shared_ptr[const CppPattern]& handle, shared_ptr[const CppPattern]* made) noexcept
    void share(shared_ptr[const CppPattern]& handle, const CppTransposedPattern* transposed) noexcept
    Failure cpp_transposed "mpl_sparse::guarded::transposed" (const CppTransposedPattern** made, const CppPattern&) noexcept
    Failure cpp_conv2d_forward "mpl_sparse::guarded::conv2d_forward" [Scalar](
        const CppPattern&, const CppValidConv2dGeometry&, Vector[const Scalar] values, Images[const Scalar] input,
        Vector[const Scalar] bias, Images[Scalar] output, int num_threads, CppActivation activation
    ) noexcept
    Failure cpp_conv2d_grad_input "mpl_sparse::guarded::conv2d_grad_input" [Scalar](
        const CppPattern&, const CppValidConv2dGeometry&, Vector[const Scalar] values, Images[const Scalar] grad_output,
        Images[Scalar] grad_input, int num_threads
    ) noexcept
    Failure cpp_conv2d_grad_weight "mpl_sparse::guarded::conv2d_grad_weight" [Scalar](
        const CppPattern&, const CppValidConv2dGeometry&, Images[const Scalar] input, Images[const Scalar] grad_output,
        Vector[Scalar] grad_values, int num_threads
    ) noexcept
    Failure cpp_linear_forward "mpl_sparse::guarded::linear_forward" [Scalar](
        const CppPattern&, Vector[const Scalar] values, Matrix[const Scalar] input, Vector[const Scalar] bias,
        Matrix[Scalar] output, int num_threads, CppActivation activation
    ) noexcept
    Failure cpp_linear_grad_input "mpl_sparse::guarded::linear_grad_input" [Scalar](
        const CppPattern&, Vector[const Scalar] values, Matrix[const Scalar] grad_output, Matrix[Scalar] grad_input,
        int num_threads
    ) noexcept
    Failure cpp_linear_grad_weight "mpl_sparse::guarded::linear_grad_weight" [Scalar](
        const CppPattern&, Matrix[const Scalar] input, Matrix[const Scalar] grad_output, Vector[Scalar] grad_values,
        int num_threads
    ) noexcept


cdef extern from "guarded.h" namespace "mpl_sparse::guarded":
    int raise_failure "mpl_sparse::guarded::raise" (Failure) except -1


cdef extern from "mpl_sparse/backend.h" namespace "mpl_sparse" nogil:
    vector[string] cpp_backends "mpl_sparse::backends" () except +
    string cpp_backend "mpl_sparse::backend" () except +
    void cpp_set_backend "mpl_sparse::set_backend" (const string&) except +
    vector[string] cpp_cpu_features "mpl_sparse::cpu_features" () except +


cdef extern from "mpl_sparse/tuning.h" namespace "mpl_sparse" nogil:
    bint cpp_tuning "mpl_sparse::tuning" ()
    void cpp_set_tuning "mpl_sparse::set_tuning" (bint)


cdef extern from "mpl_sparse/threads.h" namespace "mpl_sparse" nogil:
    int cpp_cpu_count "mpl_sparse::cpu_count" ()
    ctypedef void (*Team "mpl_sparse::Team")(void (*work)(void*), void* data, unsigned num_threads, unsigned flags)
    void cpp_set_team "mpl_sparse::set_team" (Team)
    Team cpp_team "mpl_sparse::team" ()
