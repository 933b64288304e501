// Gathers made of inserts, for x86. The gather instruction costs as many turns as elements or more on many cores, and ten times
// that where microcode guards it; four loads with inserts take two to three.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

inline __m128 insert_four(const float* base, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  __m128 r = _mm_load_ss(base + a);
  r = _mm_insert_ps(r, _mm_load_ss(base + b), 0x10);
  r = _mm_insert_ps(r, _mm_load_ss(base + c), 0x20);
  return _mm_insert_ps(r, _mm_load_ss(base + d), 0x30);
}

// One load for all the indices: loads are what is short.
inline __m128 gather_four(const float* base, const uint16_t* index) {
  uint64_t all;
  __builtin_memcpy(&all, index, sizeof all);
  return insert_four(base, all & 0xffff, all >> 16 & 0xffff, all >> 32 & 0xffff, static_cast<uint32_t>(all >> 48));
}
inline __m128 gather_four(const float* base, const int32_t* index) {
  return insert_four(base, index[0], index[1], index[2], index[3]);
}
template <class Index>
inline __m256 gather_eight(const float* base, const Index* index) {
  return _mm256_set_m128(gather_four(base, index + 4), gather_four(base, index));
}

template <class Index>
inline __m128d gather_two(const double* base, const Index* index) {
  return _mm_loadh_pd(_mm_load_sd(base + index[0]), base + index[1]);
}
template <class Index>
inline __m256d gather_four(const double* base, const Index* index) {
  return _mm256_set_m128d(gather_two(base, index + 2), gather_two(base, index));
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
