#define MPL_SPARSE_TARGET avx512
#include "simd/avx512.h"

#include "kernels/table.h"
