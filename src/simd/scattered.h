// Sums at scattered places, for instruction sets where one element at a time is as fast as any.
#pragma once

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// sums[index[i]] += factor * p[i] for four indices. They differ, so all may be read before any is written.
template <class Scalar, class Index>
inline void scattered_add_four(Scalar* sums, const Index* index, Scalar factor, const Scalar* p) {
  Scalar* const to[4] = {sums + index[0], sums + index[1], sums + index[2], sums + index[3]};
  const Scalar sum[4] = {*to[0] + factor * p[0], *to[1] + factor * p[1], *to[2] + factor * p[2], *to[3] + factor * p[3]};
  for (int i = 0; i < 4; ++i) *to[i] = sum[i];
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
