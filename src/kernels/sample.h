// The gradient at the nonzeros (SDDMM): one load of the output's gradient against eight dot products.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V, int Count>
inline void dot_products(int vectors, const typename V::scalar* packed, const uint16_t* offsets, const typename V::scalar* grad,
                         typename V::scalar* sums) {
  const typename V::scalar* x[Count];  // pointers, so that no address is computed in the loop
  typename V::reg acc[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    x[i] = packed + offsets[i];
    acc[i] = V::zero();
  }
  const int64_t length = int64_t{vectors} * V::lanes;
  for (int64_t p = 0; p < length; p += V::lanes) {
    const typename V::reg g = V::load(grad + p);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = V::fma(g, V::load(x[i] + p), acc[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) sums[i] = V::sum(acc[i]);
}

// A packed tile holds neighbours' values, or what an earlier tile left, at positions of no output. Zero times those is harmless
// unless one is NaN or infinite: then the sum is NaN, and is formed again, in the same order, from a copy that is zero there.
template <class V>
typename V::scalar sample_where_in_use(int vectors, const typename V::scalar* packed, const typename V::scalar* grad,
                                       const uint8_t* in_use) {
  alignas(64) typename V::scalar clean[V::max_vectors * V::lanes];
  for (int p = 0; p < vectors * V::lanes; ++p) clean[p] = in_use[p] ? packed[p] : 0;
  const uint16_t offset = 0;
  typename V::scalar sum;
  dot_products<V, 1>(vectors, clean, &offset, grad, &sum);
  return sum;
}

template <class V, int Count>
inline void sample_nonzeros(int vectors, const typename V::scalar* packed, const uint16_t* offsets,
                            const typename V::scalar* grad, const uint8_t* in_use, typename V::scalar* grad_values) {
  typename V::scalar sums[Count];
  dot_products<V, Count>(vectors, packed, offsets, grad, sums);
  for (int i = 0; i < Count; ++i) {
    if (!(sums[i] == sums[i])) sums[i] = sample_where_in_use<V>(vectors, packed + offsets[i], grad, in_use);
    grad_values[i] += sums[i];
  }
}

template <class V>
void sample(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* grad,
            const uint8_t* in_use, typename V::scalar* grad_values) {
  for (int64_t row = 0; row < block.rows; ++row, grad += int64_t{vectors} * V::lanes) {
    uint32_t k = block.begin[row];
    const uint32_t end = block.end[row];
    for (; k + 8 <= end; k += 8) sample_nonzeros<V, 8>(vectors, packed, block.offsets + k, grad, in_use, grad_values + k);
    for (; k < end; ++k) sample_nonzeros<V, 1>(vectors, packed, block.offsets + k, grad, in_use, grad_values + k);
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
