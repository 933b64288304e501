// The backend that every machine can run.
#pragma once

#include "simd/portable.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
using Vec = PortableVec<Scalar>;

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
