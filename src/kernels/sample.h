// The gradient at the nonzeros (SDDMM): one load of the output's gradient against eight dot products.
#pragma once

#include "kernels/accumulate.h"
#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V, int Count>
inline void dot_products(int vectors, const typename V::scalar* packed, const uint16_t* offsets, const typename V::scalar* grad,
                         typename V::scalar* sums) {
  typename V::reg acc[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) acc[i] = V::zero();
  for (int t = 0; t < vectors; ++t) {
    const typename V::reg g = V::load(grad + t * V::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = V::fma(g, V::load(packed + offsets[i] + t * V::lanes), acc[i]);
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

// What every nonzero of a group shares.
template <class V>
struct SampleGroup {
  int vectors;
  const typename V::scalar* packed;
  const typename V::scalar* grad;
  const uint8_t* in_use;
  uint32_t first;
};

template <class V, class Order, int Count>
inline void sample_nonzeros(const SampleGroup<V>& group, const BlockRows& block, uint32_t k, typename V::scalar* grad_values) {
  typename V::scalar sums[Count];
  dot_products<V, Count>(group.vectors, group.packed, block.offsets + k, group.grad, sums);
  for (int i = 0; i < Count; ++i) {
    if (!(sums[i] == sums[i])) {
      sums[i] = sample_where_in_use<V>(group.vectors, group.packed + block.offsets[k + i], group.grad, group.in_use);
    }
    grad_values[Order::value(block, group.first, k + i)] += sums[i];
  }
}

template <class V, class Order>
void sample_groups(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* grad,
                   const uint8_t* in_use, typename V::scalar* grad_values) {
  const int64_t elements = int64_t{vectors} * V::lanes;
  const uint32_t* bound = block.bounds;
  for (int64_t row = 0; row < block.rows; ++row, ++bound) {
    const uint32_t first = *bound;
    for (int64_t shift = 0; shift < block.num_shifts; ++shift, ++bound, grad += elements) {
      const SampleGroup<V> group = {vectors, packed, grad, in_use + shift * elements, first};
      uint32_t k = bound[0];
      const uint32_t end = bound[1];
      for (; k + 8 <= end; k += 8) sample_nonzeros<V, Order, 8>(group, block, k, grad_values);
      for (; k < end; ++k) sample_nonzeros<V, Order, 1>(group, block, k, grad_values);
    }
  }
}

template <class V>
void sample(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* grad,
            const uint8_t* in_use, typename V::scalar* grad_values) {
  if (block.places) {
    sample_groups<V, ByPlace>(vectors, packed, block, grad, in_use, grad_values);
  } else {
    sample_groups<V, InOrder>(vectors, packed, block, grad, in_use, grad_values);
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
