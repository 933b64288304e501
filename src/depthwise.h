// Depthwise convolutions: each input channel is a group of its own. So few taps read a source row that a tile plan's copies cost
// more than the sums: here bands of rows are packed and summed plane by plane, straight from the pattern's CSR.
#pragma once

#include "correlate.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/pattern.h"
#include "mpl_sparse/tensor.h"

namespace mpl_sparse {

// Whether the functions below compute this convolution. Tile plans do where groups have several channels, columns are not
// neighbours (channels_last), a stride is above 2, padding goes beyond the kernel's reach, or a row of outputs needs more than a
// cache holds.
template <class Scalar>
bool depthwise_applies(const Conv2dGeometry& g, const Images<const Scalar>& source, const Images<const Scalar>& result);

template <class Scalar>
void depthwise_forward(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g, const Scalar* values,
                       const Planes<const Scalar>& input, const Vector<const Scalar>& bias, const Planes<Scalar>& output,
                       int num_threads, Activation activation);

template <class Scalar>
void depthwise_grad_input(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g, const Scalar* values,
                          const Planes<const Scalar>& grad_output, const Planes<Scalar>& grad_input, int num_threads);

// Overwrites all of grad_values.
template <class Scalar>
void depthwise_grad_weight(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g,
                           const Planes<const Scalar>& input, const Planes<const Scalar>& grad_output, Scalar* grad_values,
                           int num_threads);

}  // namespace mpl_sparse
