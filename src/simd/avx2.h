// AVX2 with FMA: sixteen registers of 256 bits.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/partial.h"
#include "simd/sum_of_each.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

template <>
struct Vec<float> {
  using scalar = float;
  using reg = __m256;
  static constexpr int lanes = 8;
  static constexpr int alignment = 8;  // a load that crosses a cache line takes two turns
  static constexpr int max_vectors = 12;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 0.8;
  static constexpr double far_cost = 1;

  static reg zero() { return _mm256_setzero_ps(); }
  static reg broadcast(float x) { return _mm256_set1_ps(x); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg r) { _mm256_storeu_ps(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }
  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  // x where it is not below zero, else zero: NaN and -0.0 stay
  static reg relu(reg x) { return _mm256_and_ps(_mm256_cmp_ps(x, zero(), _CMP_NLT_UQ), x); }
  static float sum(reg r) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(r), _mm256_extractf128_ps(r, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  // sums[i] = the sum of r[i], for eight vectors
  static void sum_each(const reg* r, float* sums) { store(sums, sum_of_each(r)); }
  static __m256i widen(const uint16_t* index) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
  }
  static __m256i widen(const int32_t* index) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)); }
  template <class Index>
  static reg gather(const float* base, const Index* index) {
    return _mm256_i32gather_ps(base, widen(index), 4);
  }
  static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static reg load_partial(const float* p, int count) { return _mm256_maskload_ps(p, first(count)); }
  static void store_partial(float* p, reg r, int count) { _mm256_maskstore_ps(p, first(count), r); }
  // p[0], p[2], ...
  static reg load_even(const float* p) {
    const reg pairs = _mm256_shuffle_ps(load(p), load(p + 8), _MM_SHUFFLE(2, 0, 2, 0));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), _MM_SHUFFLE(3, 1, 2, 0)));
  }
  static reg load_even_partial(const float* p, int count) { return partial_load_even<Vec>(p, count); }
  template <class Index>
  static reg gather_partial(const float* base, const Index* index, int count) {
    return partial_gather<Vec>(base, index, count);
  }
};

template <>
struct Vec<double> {
  using scalar = double;
  using reg = __m256d;
  static constexpr int lanes = 4;
  static constexpr int alignment = 4;  // a load that crosses a cache line takes two turns
  static constexpr int max_vectors = 12;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 0.8;
  static constexpr double far_cost = 1;

  static reg zero() { return _mm256_setzero_pd(); }
  static reg broadcast(double x) { return _mm256_set1_pd(x); }
  static reg load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, reg r) { _mm256_storeu_pd(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_pd(a, b, c); }
  static reg add(reg a, reg b) { return _mm256_add_pd(a, b); }
  static reg relu(reg x) { return _mm256_and_pd(_mm256_cmp_pd(x, zero(), _CMP_NLT_UQ), x); }
  static double sum(reg r) {
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(r), _mm256_extractf128_pd(r, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
  }
  static void sum_each(const reg* r, double* sums) {
    for (int i = 0; i < 8; ++i) sums[i] = sum(r[i]);
  }
  static __m128i widen(const uint16_t* index) {
    return _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index)));
  }
  static __m128i widen(const int32_t* index) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(index)); }
  template <class Index>
  static reg gather(const double* base, const Index* index) {
    return _mm256_i32gather_pd(base, widen(index), 8);
  }
  static __m256i first(int count) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3)); }
  static reg load_partial(const double* p, int count) { return _mm256_maskload_pd(p, first(count)); }
  static void store_partial(double* p, reg r, int count) { _mm256_maskstore_pd(p, first(count), r); }
  static reg load_even(const double* p) {
    return _mm256_permute4x64_pd(_mm256_unpacklo_pd(load(p), load(p + 4)), _MM_SHUFFLE(3, 1, 2, 0));
  }
  static reg load_even_partial(const double* p, int count) { return partial_load_even<Vec>(p, count); }
  template <class Index>
  static reg gather_partial(const double* base, const Index* index, int count) {
    return partial_gather<Vec>(base, index, count);
  }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
