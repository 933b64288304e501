// A target file defines MPL_SPARSE_TARGET, includes its simd/ file and then this one: that is a backend.
#pragma once

#include "kernels/accumulate.h"
#include "kernels/interface.h"
#include "kernels/pack.h"
#include "kernels/rows_add.h"
#include "kernels/rows_dot.h"
#include "kernels/rows_sample.h"
#include "kernels/sample.h"
#include "kernels/tile.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
const Kernels<Scalar>& table() {
  using V = Vec<Scalar>;
  static constexpr Kernels<Scalar> kernels = {
      V::lanes,
      V::max_vectors,
      V::alignment,
      V::nonzero_cost,
      V::far_cost,
      {V::dot_bits_from, V::add_bits_from, V::sample_bits_from},
      &pack<V>,
      &store<V>,
      &load<V>,
      &accumulate<V>,
      &sample<V>,
      &order_values<Scalar>,
      &rows_dot<V, uint16_t>,
      &rows_dot<V, int32_t>,
      &rows_dot_bits<V>,
      &rows_add<V, uint16_t>,
      &rows_add<V, int32_t>,
      &rows_add_bits<V>,
      &rows_sample<V, uint16_t>,
      &rows_sample<V, int32_t>,
      &rows_sample_bits<V>,
      &permute<Scalar>,
  };
  return kernels;
}

const Kernels<float>& kernels_f32() { return table<float>(); }
const Kernels<double>& kernels_f64() { return table<double>(); }

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
