#define MPL_SPARSE_TARGET scalar
#include "simd/scalar.h"

#include "kernels/table.h"
