// The gradient at the nonzeros (SDDMM): one load of the output's gradient against eight dot products.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// A packed tile holds neighbours' values at positions of no output. Zero times those is harmless unless one is NaN or infinite; then
// the sum is NaN, and is formed again from the positions in use alone.
template <class Scalar>
inline Scalar sample_exactly(int64_t length, const Scalar* packed, const Scalar* grad, const uint8_t* in_use) {
  Scalar sum = 0;
  for (int64_t p = 0; p < length; ++p) {
    if (in_use[p]) sum += grad[p] * packed[p];
  }
  return sum;
}

template <class V, int Count>
inline void sample_nonzeros(int vectors, const typename V::scalar* packed, const uint16_t* offsets, const typename V::scalar* grad,
                            const uint8_t* in_use, typename V::scalar* grad_values) {
  using Scalar = typename V::scalar;
  typename V::reg acc[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) acc[i] = V::zero();
  for (int t = 0; t < vectors; ++t) {
    const typename V::reg g = V::load(grad + t * V::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = V::fma(g, V::load(packed + offsets[i] + t * V::lanes), acc[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    Scalar sum = V::sum(acc[i]);
    if (!(sum == sum)) sum = sample_exactly(int64_t{vectors} * V::lanes, packed + offsets[i], grad, in_use);
    grad_values[i] += sum;
  }
}

template <class V>
void sample(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* grad, const uint8_t* in_use,
            typename V::scalar* grad_values) {
  for (int64_t row = 0; row < block.rows; ++row, grad += int64_t{vectors} * V::lanes) {
    uint32_t k = block.begin[row];
    const uint32_t end = block.end[row];
    for (; k + 8 <= end; k += 8) sample_nonzeros<V, 8>(vectors, packed, block.offsets + k, grad, in_use, grad_values + k);
    for (; k < end; ++k) sample_nonzeros<V, 1>(vectors, packed, block.offsets + k, grad, in_use, grad_values + k);
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
