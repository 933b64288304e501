// Runs a TilePlan over strided images: packs tiles, calls the backend's kernels, writes the results.
#pragma once

#include <cstdint>

#include "mpl_sparse/activation.h"
#include "tile_plan.h"

namespace mpl_sparse {

// Strided images whose element (image, channel, row, column) stands at the dot product of that and the strides.
template <class Scalar>
struct Planes {
  Scalar* data;
  int64_t image_stride, channel_stride, row_stride, col_stride;
};

template <class Scalar>
struct SourcePlanes {
  Planes<const Scalar> planes;
  int64_t height, width;
};

// outputs = activation(correlation of source with the weight, plus bias[row * bias_stride] where bias is not null).
template <class Scalar>
void correlate(const Kernels<Scalar>& kernel, const TilePlan& plan, const Extents& extents, const SourcePlanes<Scalar>& source,
               const Scalar* values, const Scalar* bias, int64_t bias_stride, const Planes<Scalar>& outputs, int num_threads,
               Activation activation = Activation::none);

// grad_values[k] = the gradient of the k-th nonzero, from the gradient of the outputs. Overwrites all of them.
template <class Scalar>
void sample(const Kernels<Scalar>& kernel, const TilePlan& plan, const Extents& extents, const SourcePlanes<Scalar>& source,
            const Planes<const Scalar>& grad_outputs, Scalar* grad_values, int num_threads);

}  // namespace mpl_sparse
