// AVX2 with FMA: sixteen registers of 256 bits.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/insert.h"
#include "simd/partial.h"
#include "simd/places.h"
#include "simd/scattered.h"
#include "simd/sum_of_each.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

// An index of kept lanes has its sign set, which is what blends look at; permutations look at the low bits only.
alignas(64) constexpr auto kExpandEight = expand_table<8, 1>(0x80, 0);
alignas(64) constexpr auto kCompressEight = compress_table<8, 1>();
alignas(64) constexpr auto kExpandFour = expand_table<4, 2>(0x80, 0);
alignas(64) constexpr auto kCompressFour = compress_table<4, 2>();

inline __m256i indices(const uint8_t* row) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row)));
}

// In a register of its own: a permutation that also loads takes twice as long on Zen 3.
inline __m256 load_apart(const void* p) {
  __m256 r = _mm256_loadu_ps(static_cast<const float*>(p));
  __asm__("" : "+x"(r));
  return r;
}

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
  template <class Index>
  static reg gather(const float* base, const Index* index) {
    return gather_eight(base, index);
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
  // Densities from which rows are read by bits: measured on one core of a Zen 3.
  static constexpr double dot_bits_from = 0.33, add_bits_from = 0.26, sample_bits_from = 0.43;
  // Rows of fewer nonzeros, in the mean, are multiplied together.
  static constexpr int short_rows = 16;
  static reg mul(reg a, reg b) { return _mm256_mul_ps(a, b); }
  static reg load_first(const float* p, int count) { return load_partial(p, count); }
  template <class Index>
  static void add_four(float* sums, const Index* index, float factor, const float* p) {
    inserted_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return _mm_popcnt_u32(bits); }

  using places = __m256i;
  static places places_of(uint32_t bits) { return indices(kExpandEight.rows[bits]); }
  static reg expand(const float* p, places at) { return _mm256_permutevar8x32_ps(load_apart(p), at); }
  static reg fma_where(places at, reg a, reg b, reg c) { return _mm256_blendv_ps(c, fma(a, b, c), _mm256_castsi256_ps(at)); }
  static void compress_to(float* p, reg r, uint32_t bits) {
    store(p, _mm256_permutevar8x32_ps(r, indices(kCompressEight.rows[bits])));
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
  template <class Index>
  static reg gather(const double* base, const Index* index) {
    return gather_four(base, index);
  }
  static __m256i first(int count) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3)); }
  static reg load_partial(const double* p, int count) { return _mm256_maskload_pd(p, first(count)); }
  static void store_partial(double* p, reg r, int count) { _mm256_maskstore_pd(p, first(count), r); }
  static reg load_even(const double* p) {
    return _mm256_permute4x64_pd(_mm256_unpacklo_pd(load(p), load(p + 4)), _MM_SHUFFLE(3, 1, 2, 0));
  }
  static reg load_even_partial(const double* p, int count) { return partial_load_even<Vec>(p, count); }
  static constexpr double dot_bits_from = 0.72, add_bits_from = 0.54, sample_bits_from = 0.94;
  static constexpr int short_rows = 4;
  static reg mul(reg a, reg b) { return _mm256_mul_pd(a, b); }
  static reg load_first(const double* p, int count) { return load_partial(p, count); }
  template <class Index>
  static void add_four(double* sums, const Index* index, double factor, const double* p) {
    scattered_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return _mm_popcnt_u32(bits); }

  using places = __m256i;
  static places places_of(uint32_t bits) { return indices(kExpandFour.rows[bits]); }
  static reg permute(reg r, __m256i words) { return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(r), words)); }
  static reg expand(const double* p, places at) { return permute(_mm256_castps_pd(load_apart(p)), at); }
  static reg fma_where(places at, reg a, reg b, reg c) { return _mm256_blendv_pd(c, fma(a, b, c), _mm256_castsi256_pd(at)); }
  static void compress_to(double* p, reg r, uint32_t bits) { store(p, permute(r, indices(kCompressFour.rows[bits]))); }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
