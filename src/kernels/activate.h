// The activations, one result at a time; the compiler turns them into vectors.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <Activation activation, class Scalar>
inline Scalar activate(Scalar x) {
  return activation == Activation::relu && x < 0 ? Scalar{0} : x;  // false for NaN and -0.0: they stay
}

template <class Scalar>
inline Scalar activate(Activation activation, Scalar x) {
  return activation == Activation::relu ? activate<Activation::relu>(x) : x;
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
