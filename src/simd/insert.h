// Gathers made of inserts, and scatters, for x86. The gather instruction costs as many turns as elements or more on many cores,
// and ten times that where microcode guards it; four loads with inserts take two to three.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

struct FourIndices {
  uint32_t a, b, c, d;
};
// One load for two indices: a load for each is slower, and so is one for all, which takes more shifts.
inline FourIndices four_indices(const uint16_t* index) {
  uint32_t low, high;
  __builtin_memcpy(&low, index, sizeof low);
  __builtin_memcpy(&high, index + 2, sizeof high);
  return {low & 0xffff, low >> 16, high & 0xffff, high >> 16};
}
inline FourIndices four_indices(const int32_t* index) {
  return {static_cast<uint32_t>(index[0]), static_cast<uint32_t>(index[1]), static_cast<uint32_t>(index[2]),
          static_cast<uint32_t>(index[3])};
}

inline __m128 gather_four(const float* base, const FourIndices& at) {
  __m128 r = _mm_load_ss(base + at.a);
  r = _mm_insert_ps(r, _mm_load_ss(base + at.b), 0x10);
  r = _mm_insert_ps(r, _mm_load_ss(base + at.c), 0x20);
  return _mm_insert_ps(r, _mm_load_ss(base + at.d), 0x30);
}
inline void scatter_four(float* base, const FourIndices& at, __m128 r) {
  const __m128 high = _mm_movehl_ps(r, r);
  _mm_store_ss(base + at.a, r);
  _mm_store_ss(base + at.b, _mm_movehdup_ps(r));
  _mm_store_ss(base + at.c, high);
  _mm_store_ss(base + at.d, _mm_movehdup_ps(high));
}

// sums[index[i]] += factor * p[i] for four indices that differ
template <class Index>
inline void inserted_add_four(float* sums, const Index* index, float factor, const float* p) {
  const FourIndices at = four_indices(index);
  scatter_four(sums, at, _mm_fmadd_ps(_mm_set1_ps(factor), _mm_loadu_ps(p), gather_four(sums, at)));
}

template <class Index>
inline __m256 gather_eight(const float* base, const Index* index) {
  return _mm256_set_m128(gather_four(base, four_indices(index + 4)), gather_four(base, four_indices(index)));
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
