// Depthwise convolutions: each channel is a group of its own. Too few taps read a source row for a tile plan to pay: bands of rows
// are packed and summed plane by plane, straight from the pattern's CSR.
#pragma once

#include "correlate.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/pattern.h"

namespace mpl_sparse {

// Whether the functions below compute this convolution. Others have no more than a few channels a group, columns that are not
// neighbours (channels_last), a stride above 2, padding beyond the kernel's reach, or rows too long for a cache.
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
