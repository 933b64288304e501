// Eight sums at once for the instruction sets that have vectors of 256 bits.
#pragma once

#include <immintrin.h>

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// Lane i of the result is the sum of r[i]: three rounds that each add neighbours and halve what is left.
inline __m256 sum_of_each(const __m256* r) {
  const auto add_halves = [](__m256 a, __m256 b) { return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); };
  const __m256 ac = add_halves(r[0], r[2]), bd = add_halves(r[1], r[3]);
  const __m256 eg = add_halves(r[4], r[6]), fh = add_halves(r[5], r[7]);
  const __m256 abcd = add_halves(ac, bd), efgh = add_halves(eg, fh);
  return _mm256_add_ps(_mm256_permute2f128_ps(abcd, efgh, 0x20), _mm256_permute2f128_ps(abcd, efgh, 0x31));
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
