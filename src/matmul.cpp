#include "mpl_sparse/matmul.h"

#include <algorithm>

#include "arguments.h"
#include "dispatch.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/threads.h"
#include "plan_cache.h"
#include "workspace.h"

namespace mpl_sparse {
namespace {

constexpr int64_t kNarrowColumns = 1 << 16;
constexpr int64_t kSerialNonzeros = 30000;  // a sample's worth below which waking a thread does not pay
constexpr int64_t kTasksPerThread = 4;

// A batch is one row of pixels: the batched products are 1x1 convolutions over it.
template <class Scalar>
Images<Scalar> as_row_of_pixels(const Matrix<Scalar>& m) {
  Images<Scalar> images;
  images.data = m.data;
  images.size[0] = 1;
  images.size[1] = m.size[1];
  images.size[2] = 1;
  images.size[3] = m.size[0];
  images.stride[1] = m.stride[1];
  images.stride[3] = m.stride[0];
  return images;
}

Conv2dGeometry pointwise(const Pattern& pattern, int64_t batch) {
  Conv2dGeometry g;
  g.batch = 1;
  g.in_channels = pattern.cols();
  g.out_channels = pattern.rows();
  g.in_height = 1;
  g.in_width = batch;
  return g;
}

template <class Scalar>
const Scalar* contiguous(const Scalar* data, int64_t stride, int64_t size) {
  if (stride == 1 || size <= 1) return data;
  Scalar* copy = scratch<Scalar>(Scratch::input, size);
  for (int64_t i = 0; i < size; ++i) copy[i] = data[i * stride];
  return copy;
}

// out[row] = activation(bias[row] + the row's nonzeros times x), in parts of about as many nonzeros each.
template <class Scalar>
void one_sample(const Pattern& pattern, const Scalar* values, const Scalar* x, const Vector<const Scalar>& bias, Scalar* out,
                int64_t out_stride, int num_threads, Activation activation = Activation::none) {
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const bool narrow = pattern.cols() <= kNarrowColumns;
  const uint16_t* narrow_columns = narrow ? pattern.plans().narrow_columns(pattern).data() : nullptr;
  const int64_t parts =
      pattern.nnz() < kSerialNonzeros || num_threads <= 1 ? 1 : std::min(pattern.rows(), kTasksPerThread * num_threads);
  const int32_t* row_ptr = pattern.row_ptr();
  const auto boundary = [&](int64_t part) {
    if (part == parts) return pattern.rows();
    const int32_t share = static_cast<int32_t>(pattern.nnz() * part / parts);
    return static_cast<int64_t>(std::lower_bound(row_ptr, row_ptr + pattern.rows(), share) - row_ptr);
  };
  parallel_for(parts, num_threads, [&](int64_t part) {
    const int64_t first = part == 0 ? 0 : boundary(part), last = boundary(part + 1);
    if (narrow) {
      kernel.rows_dot_u16({row_ptr, narrow_columns, first, last, activation}, values, x, bias.data, bias.stride, out, out_stride);
    } else {
      kernel.rows_dot_i32({row_ptr, pattern.col_idx(), first, last, activation}, values, x, bias.data, bias.stride, out,
                          out_stride);
    }
  });
}

}  // namespace

template <class Scalar>
void linear_forward(const Pattern& pattern, Vector<const Scalar> values, Matrix<const Scalar> input, Vector<const Scalar> bias,
                    Matrix<Scalar> output, int num_threads, Activation activation) {
  const int64_t batch = input.size[0];
  check_values("values", values, pattern.nnz());
  check_shape("input", input.size, {batch, pattern.cols()});
  check_bias(bias, pattern.rows());
  check_shape("output", output.size, {batch, pattern.rows()});
  if (batch == 1) {
    one_sample(pattern, values.data, contiguous(input.data, input.stride[1], pattern.cols()), bias, output.data, output.stride[1],
               num_threads, activation);
  } else if (batch > 1) {
    conv2d_forward(pattern, pointwise(pattern, batch), values, as_row_of_pixels(input), bias, as_row_of_pixels(output),
                   num_threads, activation);
  }
}

template <class Scalar>
void linear_grad_input(const Pattern& pattern, Vector<const Scalar> values, Matrix<const Scalar> grad_output,
                       Matrix<Scalar> grad_input, int num_threads) {
  const int64_t batch = grad_output.size[0];
  check_values("values", values, pattern.nnz());
  check_shape("grad_output", grad_output.size, {batch, pattern.rows()});
  check_shape("grad_input", grad_input.size, {batch, pattern.cols()});
  if (batch == 1) {
    const TransposedPattern& transposed = pattern.transposed();
    Scalar* ordered = scratch<Scalar>(Scratch::values, pattern.nnz());
    kernels<Scalar>().permute(transposed.order.data(), pattern.nnz(), values.data, ordered);
    one_sample<Scalar>(*transposed.pattern, ordered, contiguous(grad_output.data, grad_output.stride[1], pattern.rows()), {},
                       grad_input.data, grad_input.stride[1], num_threads);
  } else if (batch > 1) {
    conv2d_grad_input(pattern, pointwise(pattern, batch), values, as_row_of_pixels(grad_output), as_row_of_pixels(grad_input),
                      num_threads);
  }
}

template <class Scalar>
void linear_grad_weight(const Pattern& pattern, Matrix<const Scalar> input, Matrix<const Scalar> grad_output,
                        Vector<Scalar> grad_values, int num_threads) {
  const int64_t batch = input.size[0];
  check_shape("input", input.size, {batch, pattern.cols()});
  check_shape("grad_output", grad_output.size, {batch, pattern.rows()});
  check_values("grad_values", grad_values, pattern.nnz());
  if (batch == 1) {
    for (int64_t row = 0; row < pattern.rows(); ++row) {
      const Scalar g = grad_output.data[row * grad_output.stride[1]];
      for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
        grad_values.data[k] = g * input.data[pattern.col_idx()[k] * input.stride[1]];
      }
    }
  } else if (batch > 1) {
    conv2d_grad_weight(pattern, pointwise(pattern, batch), as_row_of_pixels(input), as_row_of_pixels(grad_output), grad_values,
                       num_threads);
  } else {
    std::fill_n(grad_values.data, pattern.nnz(), Scalar{0});
  }
}

#define MPL_SPARSE_INSTANTIATE(Scalar)                                                                                      \
  template void linear_forward<Scalar>(const Pattern&, Vector<const Scalar>, Matrix<const Scalar>, Vector<const Scalar>,    \
                                       Matrix<Scalar>, int, Activation);                                                    \
  template void linear_grad_input<Scalar>(const Pattern&, Vector<const Scalar>, Matrix<const Scalar>, Matrix<Scalar>, int); \
  template void linear_grad_weight<Scalar>(const Pattern&, Matrix<const Scalar>, Matrix<const Scalar>, Vector<Scalar>, int);
MPL_SPARSE_INSTANTIATE(float)
MPL_SPARSE_INSTANTIATE(double)
#undef MPL_SPARSE_INSTANTIATE

}  // namespace mpl_sparse
