#include "mpl_sparse/conv2d.h"

#include <stdexcept>
#include <string>

#include "arguments.h"
#include "conv_plan.h"
#include "correlate.h"
#include "dispatch.h"
#include "workspace.h"

namespace mpl_sparse {
namespace {

constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxProduct = int64_t{1} << 62;

void check_range(const char* name, int64_t value, int64_t least) {
  if (value < least || value > kMaxSize) {
    throw std::invalid_argument(std::string(name) + " must lie in [" + std::to_string(least) + ", " + std::to_string(kMaxSize) +
                                "], got " + std::to_string(value));
  }
}

void check_product(const char* what, std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    if (size && product > kMaxProduct / size) throw std::invalid_argument(std::string(what) + " has too many elements");
    product *= size;
  }
}

// Positions in a row of the weight, and of its transpose for the gradient to the input, are 32-bit numbers.
void check_positions(const char* channels, int64_t per_group, int64_t taps) {
  if (per_group && taps > kMaxSize / per_group) {
    throw std::invalid_argument(std::string(channels) + " / groups * kernel_height * kernel_width must lie below 2^31, got " +
                                std::to_string(per_group) + " * " + std::to_string(taps));
  }
}

int64_t out_size(int64_t size, int64_t pad_begin, int64_t pad_end, int64_t kernel, int64_t stride, int64_t dilation) {
  return (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) / stride + 1;
}

void check_kernel(const char* axis, int64_t size, int64_t pad_begin, int64_t pad_end, int64_t kernel, int64_t dilation) {
  const int64_t padded = size + pad_begin + pad_end, reach = dilation * (kernel - 1) + 1;
  if (reach > padded) {
    throw std::invalid_argument(std::string("kernel_") + axis + ": the dilated kernel spans " + std::to_string(reach) +
                                " elements, more than the padded input's " + std::to_string(padded));
  }
}

void check_pattern(const Pattern& pattern, const Conv2dGeometry& g) {
  const int64_t cols = g.in_channels / g.groups * g.kernel_height * g.kernel_width;
  if (pattern.rows() != g.out_channels || pattern.cols() != cols) {
    throw std::invalid_argument("pattern must have " + std::to_string(g.out_channels) + " rows and " + std::to_string(cols) +
                                " columns, got " + std::to_string(pattern.rows()) + " and " + std::to_string(pattern.cols()));
  }
}

template <class Scalar>
VectorUnit unit_of(const Kernels<Scalar>& kernel) {
  return {kernel.lanes,        kernel.max_vectors, kernel.alignment, kernel.reach, static_cast<int64_t>(sizeof(Scalar)),
          kernel.nonzero_cost, kernel.far_cost};
}

template <class Scalar>
Planes<Scalar> planes_of(const Images<Scalar>& images) {
  if (!images.data) return {};  // empty, so never read: and no stride may be added to null
  return {images.data, images.stride[0], images.stride[1], images.stride[2], images.stride[3]};
}

// Rows that follow each other without a gap are one long row to a 1x1 convolution: no position of a tile is then lost between
// rows.
template <class Scalar>
bool rows_join(const Images<Scalar>& images) {
  return images.size[2] == 1 || images.stride[2] == images.size[3] * images.stride[3];
}

template <class Scalar>
void join_rows(Images<Scalar>& images) {
  images.size[3] *= images.size[2];
  images.size[2] = 1;
}

template <class A, class B>
void join_if_pointwise(Conv2dGeometry& g, Images<A>& input, Images<B>& output) {
  const bool pointwise = g.kernel_height == 1 && g.kernel_width == 1 && g.stride_height == 1 && g.stride_width == 1 &&
                         g.pad_top == 0 && g.pad_bottom == 0 && g.pad_left == 0 && g.pad_right == 0;
  if (!pointwise || !rows_join(input) || !rows_join(output)) return;
  g.in_width *= g.in_height;
  g.in_height = 1;
  join_rows(input);
  join_rows(output);
}

}  // namespace

void Conv2dGeometry::validate() const {
  check_range("batch", batch, 0);
  check_range("in_channels", in_channels, 0);
  check_range("in_height", in_height, 0);
  check_range("in_width", in_width, 0);
  check_range("out_channels", out_channels, 0);
  check_range("kernel_height", kernel_height, 1);
  check_range("kernel_width", kernel_width, 1);
  check_range("stride_height", stride_height, 1);
  check_range("stride_width", stride_width, 1);
  check_range("pad_top", pad_top, 0);
  check_range("pad_bottom", pad_bottom, 0);
  check_range("pad_left", pad_left, 0);
  check_range("pad_right", pad_right, 0);
  check_range("dilation_height", dilation_height, 1);
  check_range("dilation_width", dilation_width, 1);
  check_range("groups", groups, 1);
  for (const auto& channels : {std::make_pair("in_channels", in_channels), std::make_pair("out_channels", out_channels)}) {
    if (channels.second % groups) {
      throw std::invalid_argument(std::string(channels.first) + " must be a multiple of groups, got " +
                                  std::to_string(channels.second) + " and " + std::to_string(groups));
    }
  }
  check_product("the weight", {in_channels / groups, kernel_height, kernel_width, out_channels});
  check_positions("in_channels", in_channels / groups, kernel_height * kernel_width);
  check_positions("out_channels", out_channels / groups, kernel_height * kernel_width);
  check_kernel("height", in_height, pad_top, pad_bottom, kernel_height, dilation_height);
  check_kernel("width", in_width, pad_left, pad_right, kernel_width, dilation_width);
  check_product("the input", {batch, in_channels, in_height, in_width});
  check_product("the output", {batch, out_channels, out_height(), out_width()});
}

int64_t Conv2dGeometry::out_height() const {
  return out_size(in_height, pad_top, pad_bottom, kernel_height, stride_height, dilation_height);
}

int64_t Conv2dGeometry::out_width() const {
  return out_size(in_width, pad_left, pad_right, kernel_width, stride_width, dilation_width);
}

template <class Scalar>
void conv2d_forward(const Pattern& pattern, const ValidConv2dGeometry& geometry, Vector<const Scalar> values,
                    Images<const Scalar> input, Vector<const Scalar> bias, Images<Scalar> output, int num_threads,
                    Activation activation) {
  Conv2dGeometry g = geometry.sizes();
  check_pattern(pattern, g);
  check_values("values", values, pattern.nnz());
  check_shape("input", input.size, {g.batch, g.in_channels, g.in_height, g.in_width});
  check_bias(bias, g.out_channels);
  check_shape("output", output.size, {g.batch, g.out_channels, g.out_height(), g.out_width()});
  join_if_pointwise(g, input, output);
  const Extents extents{g.batch, g.out_height(), g.out_width()};
  if (extents.count() == 0) return;
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const auto plan = forward_plan(pattern, g, unit_of(kernel));
  correlate(kernel, plan->parts[0].plan, extents, {planes_of(input), g.in_height, g.in_width}, values.data, bias.data,
            bias.stride, planes_of(output), num_threads, activation);
}

template <class Scalar>
void conv2d_grad_input(const Pattern& pattern, const ValidConv2dGeometry& geometry, Vector<const Scalar> values,
                       Images<const Scalar> grad_output, Images<Scalar> grad_input, int num_threads) {
  Conv2dGeometry g = geometry.sizes();
  check_pattern(pattern, g);
  check_values("values", values, pattern.nnz());
  check_shape("grad_output", grad_output.size, {g.batch, g.out_channels, g.out_height(), g.out_width()});
  check_shape("grad_input", grad_input.size, {g.batch, g.in_channels, g.in_height, g.in_width});
  join_if_pointwise(g, grad_input, grad_output);
  if (g.batch * g.in_height * g.in_width == 0) return;
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const auto plan = grad_input_plan(pattern, g, unit_of(kernel));
  Scalar* ordered = scratch<Scalar>(Scratch::values, pattern.nnz());
  kernel.permute(plan->order.data(), pattern.nnz(), values.data, ordered);
  for (const ConvPlan::Part& part : plan->parts) {
    Planes<Scalar> outputs = planes_of(grad_input);
    outputs.data += part.rows.start * outputs.row_stride + part.cols.start * outputs.col_stride;
    outputs.row_stride *= part.rows.step;
    outputs.col_stride *= part.cols.step;
    const int64_t cols = part.cols.step == 1 ? g.in_width : part.cols.count;
    correlate(kernel, part.plan, {g.batch, part.rows.count, cols}, {planes_of(grad_output), g.out_height(), g.out_width()},
              static_cast<const Scalar*>(ordered) + part.first_value, static_cast<const Scalar*>(nullptr), 0, outputs,
              num_threads);
  }
}

template <class Scalar>
void conv2d_grad_weight(const Pattern& pattern, const ValidConv2dGeometry& geometry, Images<const Scalar> input,
                        Images<const Scalar> grad_output, Vector<Scalar> grad_values, int num_threads) {
  Conv2dGeometry g = geometry.sizes();
  check_pattern(pattern, g);
  check_shape("input", input.size, {g.batch, g.in_channels, g.in_height, g.in_width});
  check_shape("grad_output", grad_output.size, {g.batch, g.out_channels, g.out_height(), g.out_width()});
  check_values("grad_values", grad_values, pattern.nnz());
  join_if_pointwise(g, input, grad_output);
  const Extents extents{g.batch, g.out_height(), g.out_width()};
  if (extents.count() == 0) {
    for (int64_t k = 0; k < pattern.nnz(); ++k) grad_values.data[k] = 0;
    return;
  }
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const auto plan = grad_weight_plan(pattern, g, unit_of(kernel));
  sample(kernel, plan->parts[0].plan, extents, {planes_of(input), g.in_height, g.in_width}, planes_of(grad_output),
         grad_values.data, num_threads);
}

#define MPL_SPARSE_INSTANTIATE(Scalar)                                                                                         \
  template void conv2d_forward<Scalar>(const Pattern&, const ValidConv2dGeometry&, Vector<const Scalar>, Images<const Scalar>, \
                                       Vector<const Scalar>, Images<Scalar>, int, Activation);                                 \
  template void conv2d_grad_input<Scalar>(const Pattern&, const ValidConv2dGeometry&, Vector<const Scalar>,                    \
                                          Images<const Scalar>, Images<Scalar>, int);                                          \
  template void conv2d_grad_weight<Scalar>(const Pattern&, const ValidConv2dGeometry&, Images<const Scalar>,                   \
                                           Images<const Scalar>, Vector<Scalar>, int);
MPL_SPARSE_INSTANTIATE(float)
MPL_SPARSE_INSTANTIATE(double)
#undef MPL_SPARSE_INSTANTIATE

}  // namespace mpl_sparse
