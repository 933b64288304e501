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
constexpr int64_t kPartNonzeros = 1 << 16;  // of the rows that share sums: enough for a thread to be worth waking
constexpr int64_t kMostParts = 16;
constexpr int64_t kSumsAlignment = 16;  // in elements: at least a vector, and sums of two parts share no cache line

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

// Whether bits are the faster form of the columns; from which density on is the backend's to say.
bool by_bits(const Pattern& pattern, double least_density) {
  return static_cast<double>(pattern.nnz()) >=
         least_density * static_cast<double>(pattern.rows()) * static_cast<double>(pattern.cols());
}

bool narrow(const Pattern& pattern) { return pattern.cols() <= kNarrowColumns; }

int64_t mean_nonzeros(const Pattern& pattern) { return pattern.nnz() / std::max<int64_t>(1, pattern.rows()); }

RowsJob<uint16_t> narrow_rows(const Pattern& pattern, int64_t begin, int64_t end) {
  return {pattern.row_ptr(), pattern.plans().narrow_columns(pattern).data(), begin, end, mean_nonzeros(pattern)};
}

RowsJob<int32_t> wide_rows(const Pattern& pattern, int64_t begin, int64_t end) {
  return {pattern.row_ptr(), pattern.col_idx(), begin, end, mean_nonzeros(pattern)};
}

BitRowsJob bit_rows(const Pattern& pattern, int64_t begin, int64_t end) {
  const PatternBits& columns = pattern.plans().column_bits(pattern);
  return {pattern.row_ptr(), columns.bits.data(), columns.row_bytes, pattern.cols(), begin, end};
}

int64_t round_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// The input, readable up to a multiple of `lanes`.
template <class Scalar>
const Scalar* contiguous(const Scalar* data, int64_t stride, int64_t size, int64_t lanes) {
  if ((stride == 1 || size <= 1) && size % lanes == 0) return data;
  Scalar* copy = scratch<Scalar>(Scratch::input, round_up(size, lanes));
  if (stride == 1) {
    std::copy_n(data, size, copy);
  } else {
    for (int64_t i = 0; i < size; ++i) copy[i] = data[i * stride];
  }
  return copy;
}

// The first row of [begin, end) whose nonzeros end less than a vector before the last one's: from here on, whoever passes the end
// of a row by a vector may pass the end of the rows.
int64_t rows_near_end(const Pattern& pattern, int64_t begin, int64_t end, int64_t lanes) {
  const int32_t* row_ptr = pattern.row_ptr();
  const int64_t last = row_ptr[end] - lanes;
  return std::upper_bound(row_ptr + begin + 1, row_ptr + end + 1, last,
                          [](int64_t bound, int32_t row_end) { return bound < row_end; }) -
         (row_ptr + 1);
}

// Calls use(rows begin, rows end, their values) for rows [begin, end), the last of them with a copy of their values that has room
// for a vector more.
template <class Scalar, class Use>
void with_room_after(const Pattern& pattern, const Scalar* values, int64_t begin, int64_t end, int64_t lanes, Use use) {
  const int32_t* row_ptr = pattern.row_ptr();
  const int64_t near_end = std::clamp(rows_near_end(pattern, 0, pattern.rows(), lanes), begin, end);
  if (begin < near_end) use(begin, near_end, values + row_ptr[begin]);
  if (near_end == end) return;
  const int64_t count = row_ptr[end] - row_ptr[near_end];
  Scalar* copy = scratch<Scalar>(Scratch::values, count + lanes);
  std::copy_n(values + row_ptr[near_end], count, copy);
  use(near_end, end, static_cast<const Scalar*>(copy));
}

// Calls body(part, rows begin, rows end) for parts of about as many nonzeros each.
template <class Body>
void each_part(const Pattern& pattern, int64_t parts, int num_threads, Body body) {
  const int32_t* row_ptr = pattern.row_ptr();
  const auto boundary = [&](int64_t part) {
    if (part == 0) return int64_t{0};
    if (part == parts) return pattern.rows();
    const int32_t share = static_cast<int32_t>(pattern.nnz() * part / parts);
    return static_cast<int64_t>(std::lower_bound(row_ptr, row_ptr + pattern.rows(), share) - row_ptr);
  };
  parallel_for(parts, num_threads, [&](int64_t part) {
    const int64_t begin = boundary(part), end = boundary(part + 1);
    if (begin < end) body(part, begin, end);
  });
}

// For work whose results do not depend on the parts.
int64_t parts_for(const Pattern& pattern, int num_threads) {
  if (pattern.nnz() < kSerialNonzeros || num_threads <= 1) return 1;
  return std::min(pattern.rows(), kTasksPerThread * num_threads);
}

template <class Scalar>
void sample_forward(const Pattern& pattern, const Scalar* values, const Scalar* x, const RowResults<Scalar>& results,
                    int num_threads) {
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const bool bits = by_bits(pattern, kernel.bit_densities.dot);
  each_part(pattern, parts_for(pattern, num_threads), num_threads, [&](int64_t, int64_t begin, int64_t end) {
    const Scalar* own = values + pattern.row_ptr()[begin];
    if (bits) {
      with_room_after(pattern, values, begin, end, kernel.lanes, [&](int64_t first, int64_t last, const Scalar* from) {
        kernel.rows_dot_bits(bit_rows(pattern, first, last), from, x, results);
      });
    } else if (narrow(pattern)) {
      kernel.rows_dot_u16(narrow_rows(pattern, begin, end), own, x, results);
    } else {
      kernel.rows_dot_i32(wide_rows(pattern, begin, end), own, x, results);
    }
  });
}

// Each part of the rows has sums of its own, added up in the order of the parts. There are as many parts for any number of
// threads.
template <class Scalar>
void sample_grad_input(const Pattern& pattern, const Scalar* values, const Vector<const Scalar>& g,
                       const Vector<Scalar>& grad_input, int num_threads) {
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const bool bits = by_bits(pattern, kernel.bit_densities.add);
  const int64_t size = round_up(pattern.cols(), kSumsAlignment);
  const int64_t parts = std::clamp<int64_t>(pattern.nnz() / std::max(kPartNonzeros, 8 * size), 1, kMostParts);
  Scalar* sums = scratch<Scalar>(Scratch::sums, parts * size);
  std::fill_n(sums, parts * size, Scalar{0});
  each_part(pattern, parts, num_threads, [&](int64_t part, int64_t begin, int64_t end) {
    Scalar* to = sums + part * size;
    const Scalar* own = values + pattern.row_ptr()[begin];
    if (bits) {
      with_room_after(pattern, values, begin, end, kernel.lanes, [&](int64_t first, int64_t last, const Scalar* from) {
        kernel.rows_add_bits(bit_rows(pattern, first, last), from, g.data, g.stride, to);
      });
    } else if (narrow(pattern)) {
      kernel.rows_add_u16(narrow_rows(pattern, begin, end), own, g.data, g.stride, to);
    } else {
      kernel.rows_add_i32(wide_rows(pattern, begin, end), own, g.data, g.stride, to);
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t col = 0; col < pattern.cols(); ++col) sums[col] += sums[part * size + col];
  }
  for (int64_t col = 0; col < pattern.cols(); ++col) grad_input.data[col * grad_input.stride] = sums[col];
}

template <class Scalar>
void sample_grad_weight(const Pattern& pattern, const Vector<const Scalar>& g, const Scalar* x, Scalar* grad_values,
                        int num_threads) {
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const bool bits = by_bits(pattern, kernel.bit_densities.sample);
  each_part(pattern, parts_for(pattern, num_threads), num_threads, [&](int64_t, int64_t begin, int64_t end) {
    const int32_t* row_ptr = pattern.row_ptr();
    Scalar* own = grad_values + row_ptr[begin];
    if (bits) {  // what follows the part is another's: its last rows are written elsewhere first
      const int64_t near_end = std::max(begin, rows_near_end(pattern, begin, end, kernel.lanes));
      if (begin < near_end) kernel.rows_sample_bits(bit_rows(pattern, begin, near_end), g.data, g.stride, x, own);
      const int64_t count = row_ptr[end] - row_ptr[near_end];
      Scalar* rest = scratch<Scalar>(Scratch::values, count + kernel.lanes);
      if (near_end < end) kernel.rows_sample_bits(bit_rows(pattern, near_end, end), g.data, g.stride, x, rest);
      std::copy_n(rest, count, grad_values + row_ptr[near_end]);
    } else if (narrow(pattern)) {
      kernel.rows_sample_u16(narrow_rows(pattern, begin, end), g.data, g.stride, x, own);
    } else {
      kernel.rows_sample_i32(wide_rows(pattern, begin, end), g.data, g.stride, x, own);
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
    sample_forward(pattern, values.data, contiguous(input.data, input.stride[1], pattern.cols(), kernels<Scalar>().lanes),
                   {bias.data, bias.stride, output.data, output.stride[1], activation}, num_threads);
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
    sample_grad_input<Scalar>(pattern, values.data, {grad_output.data, pattern.rows(), grad_output.stride[1]},
                              {grad_input.data, pattern.cols(), grad_input.stride[1]}, num_threads);
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
    sample_grad_weight<Scalar>(pattern, {grad_output.data, pattern.rows(), grad_output.stride[1]},
                               contiguous(input.data, input.stride[1], pattern.cols(), kernels<Scalar>().lanes), grad_values.data,
                               num_threads);
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
