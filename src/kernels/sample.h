// The gradient at the nonzeros (SDDMM): one load of the output's gradient against eight dot products.
#pragma once

#include "kernels/interface.h"
#include "kernels/prefetch.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

constexpr int kDots = 8;  // multiply-adds in flight, which hide their latency

// Count dot products at a time; where they are few, each is summed in several parts.
template <class V, int Count>
inline void dot_products(int vectors, const typename V::scalar* packed, const uint16_t* offsets, const typename V::scalar* grad,
                         typename V::scalar* sums) {
  constexpr int parts = kDots / Count;
  const typename V::scalar* x[Count];  // pointers, so that no address is computed in the loop
  typename V::reg acc[kDots];
#pragma GCC unroll 8
  for (int i = 0; i < kDots; ++i) acc[i] = V::zero();
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) x[i] = packed + offsets[i];
  const int64_t length = int64_t{vectors} * V::lanes;
  int64_t p = 0;
  for (; p + parts * V::lanes <= length; p += parts * V::lanes) {
#pragma GCC unroll 8
    for (int part = 0; part < parts; ++part) {
      const typename V::reg g = V::load(grad + p + part * V::lanes);
#pragma GCC unroll 8
      for (int i = 0; i < Count; ++i) {
        typename V::reg& sum = acc[part * Count + i];
        sum = V::fma(g, V::load(x[i] + p + part * V::lanes), sum);
      }
    }
  }
  for (; p < length; p += V::lanes) {
    const typename V::reg g = V::load(grad + p);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) acc[i] = V::fma(g, V::load(x[i] + p), acc[i]);
  }
  if (Count == kDots) return V::sum_each(acc, sums);
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 8
    for (int part = 1; part < parts; ++part) acc[i] = V::add(acc[i], acc[part * Count + i]);
    sums[i] = V::sum(acc[i]);
  }
}

// A packed tile holds neighbours' values, or what an earlier tile left, at positions of no output. Zero times those is harmless
// unless one is NaN or infinite: then the sum is NaN, and is formed again, in the same order, from a copy that is zero there.
template <class V, int Count>
typename V::scalar sample_where_in_use(int vectors, const typename V::scalar* packed, const typename V::scalar* grad,
                                       const uint8_t* in_use) {
  alignas(64) typename V::scalar clean[kMostSampleVectors * V::lanes];
  for (int p = 0; p < vectors * V::lanes; ++p) clean[p] = in_use[p] ? packed[p] : 0;
  const uint16_t offsets[Count] = {};
  typename V::scalar sums[Count];
  dot_products<V, Count>(vectors, clean, offsets, grad, sums);
  return sums[0];
}

// What every nonzero of a group shares.
template <class V>
struct SampleGroup {
  int vectors;
  const typename V::scalar* packed;
  const typename V::scalar* grad;
  const uint8_t* in_use;
};

// `used` of Count dot products, the others being repeats: one step is cheaper than several smaller ones.
template <class V, int Count>
inline void sample_nonzeros(const SampleGroup<V>& group, const uint16_t* entries, int used, typename V::scalar* grad_values) {
  uint16_t offsets[Count];
  for (int i = 0; i < Count; ++i) offsets[i] = entries[i < used ? i : 0];
  typename V::scalar sums[Count];
  dot_products<V, Count>(group.vectors, group.packed, offsets, group.grad, sums);
  int numbers = 0;
  for (int i = 0; i < Count; ++i) numbers += sums[i] == sums[i];
  if (numbers < Count) {
    for (int i = 0; i < Count; ++i) {
      if (sums[i] == sums[i]) continue;
      sums[i] = sample_where_in_use<V, Count>(group.vectors, group.packed + offsets[i], group.grad, group.in_use);
    }
  }
  if (used == Count) {
    for (int i = 0; i < Count; ++i) grad_values[i] += sums[i];
  } else {
    for (int i = 0; i < used; ++i) grad_values[i] += sums[i];
  }
}

template <class V>
void sample(int vectors, const typename V::scalar* packed, const BlockRows& block, const int64_t* shifts,
            const typename V::scalar* grad, int64_t grad_stride, const uint8_t* in_use, typename V::scalar* grad_values) {
  const uint32_t* bound = block.bounds;
  for (int64_t row = 0; row < block.rows; ++row, ++bound, grad += grad_stride) {
    if (row + kRowsAhead < block.rows) prefetch_row(block, bound + kRowsAhead * (block.num_shifts + 1), grad_values);
    for (int64_t s = 0; s < block.num_shifts; ++s, ++bound) {
      const SampleGroup<V> group = {vectors, packed, grad - shifts[s], in_use - shifts[s]};
      uint32_t k = bound[0];
      const uint32_t end = bound[1];
      for (; k + 8 <= end; k += 8) sample_nonzeros<V, 8>(group, block.offsets + k, 8, grad_values + k);
      const int rest = static_cast<int>(end - k);
      if (rest > 4) {
        sample_nonzeros<V, 8>(group, block.offsets + k, rest, grad_values + k);
      } else if (rest > 2) {
        sample_nonzeros<V, 4>(group, block.offsets + k, rest, grad_values + k);
      } else if (rest == 2) {
        sample_nonzeros<V, 2>(group, block.offsets + k, rest, grad_values + k);
      } else if (rest == 1) {
        sample_nonzeros<V, 1>(group, block.offsets + k, rest, grad_values + k);
      }
    }
  }
}

template <class Scalar>
void order_values(const BlockRows& block, Scalar* values, Scalar* scratch) {
  for (int64_t row = 0; row < block.rows; ++row) {
    const uint32_t* bounds = block.bounds + row * (block.num_shifts + 1);
    const uint32_t first = bounds[0], count = bounds[block.num_shifts] - first;
    for (uint32_t i = 0; i < count; ++i) scratch[block.places[first + i]] = values[first + i];
    for (uint32_t i = 0; i < count; ++i) values[first + i] = scratch[i];
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
