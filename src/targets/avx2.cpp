#define MPL_SPARSE_TARGET avx2
#include "simd/avx2.h"

#include "kernels/table.h"
