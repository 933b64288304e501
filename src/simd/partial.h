// The first `count` lanes of a vector, for instruction sets without masked loads.
#pragma once

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V>
inline typename V::reg partial_load(const typename V::scalar* p, int count) {
  alignas(64) typename V::scalar lanes[V::lanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return V::load(lanes);
}

template <class V>
inline typename V::reg partial_load_even(const typename V::scalar* p, int count) {
  alignas(64) typename V::scalar lanes[V::lanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[2 * i];
  return V::load(lanes);
}

template <class V>
inline void partial_store(typename V::scalar* p, typename V::reg r, int count) {
  alignas(64) typename V::scalar lanes[V::lanes];
  V::store(lanes, r);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
