// The kernels of the backend in use.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {

// Throws std::invalid_argument when MPL_SPARSE_BACKEND names a backend that this machine cannot run.
template <class Scalar>
const Kernels<Scalar>& kernels();

}  // namespace mpl_sparse
