// 2-D convolution (cross-correlation, as torch.nn.functional.conv2d) with a sparse weight.
//
// The weight (out_channels, in_channels / groups, kernel_height, kernel_width) is a Pattern of out_channels rows and
// in_channels / groups * kernel_height * kernel_width columns, and its nnz values in row-major order. Zero padding is implied.
// Scalar is float or double. Results hold the same bits for any number of threads. Views may have any strides; an output must not
// overlap an input or itself. Throws std::invalid_argument, naming the argument, before anything is written.
#pragma once

#include <cstdint>

#include "mpl_sparse/activation.h"
#include "mpl_sparse/pattern.h"
#include "mpl_sparse/tensor.h"

namespace mpl_sparse {

struct Conv2dGeometry {
  int64_t batch = 0;
  int64_t in_channels = 0;
  int64_t in_height = 0;
  int64_t in_width = 0;
  int64_t out_channels = 0;
  int64_t kernel_height = 1;
  int64_t kernel_width = 1;
  int64_t stride_height = 1;
  int64_t stride_width = 1;
  int64_t pad_top = 0;
  int64_t pad_bottom = 0;
  int64_t pad_left = 0;
  int64_t pad_right = 0;
  int64_t dilation_height = 1;
  int64_t dilation_width = 1;
  int64_t groups = 1;

  // Every size is checked, and every product of sizes that the kernels form stays below 2^62.
  void validate() const;
  int64_t out_height() const;
  int64_t out_width() const;
};

// A geometry that was validated when this was made: the operations take no other, and validate it no more.
class ValidConv2dGeometry {
 public:
  // Throws as validate(). Not explicit: who has sizes that are used once passes them as they are.
  ValidConv2dGeometry(const Conv2dGeometry& sizes) : sizes_(sizes) { sizes_.validate(); }

  const Conv2dGeometry& sizes() const { return sizes_; }

 private:
  const Conv2dGeometry sizes_;
};

// output = activation(conv2d(input, weight) + bias). bias: out_channels values, or data == nullptr for none.
template <class Scalar>
void conv2d_forward(const Pattern& pattern, const ValidConv2dGeometry& geometry, Vector<const Scalar> values,
                    Images<const Scalar> input, Vector<const Scalar> bias, Images<Scalar> output, int num_threads,
                    Activation activation = Activation::none);

// grad_input = the gradient of a loss to the input, from grad_output, its gradient to the output.
template <class Scalar>
void conv2d_grad_input(const Pattern& pattern, const ValidConv2dGeometry& geometry, Vector<const Scalar> values,
                       Images<const Scalar> grad_output, Images<Scalar> grad_input, int num_threads);

// grad_values[k] = the gradient at the k-th nonzero. No dense weight gradient is formed.
template <class Scalar>
void conv2d_grad_weight(const Pattern& pattern, const ValidConv2dGeometry& geometry, Images<const Scalar> input,
                        Images<const Scalar> grad_output, Vector<Scalar> grad_values, int num_threads);

}  // namespace mpl_sparse
