#define MPL_SPARSE_TARGET neon
#include "simd/neon.h"

#include "kernels/table.h"
