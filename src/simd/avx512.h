// AVX-512 (F, VL, BW, DQ): thirty-two registers of 512 bits, masks for the last few elements.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/insert.h"
#include "simd/places.h"
#include "simd/scattered.h"
#include "simd/sum_of_each.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

// Permutations by tables of eight lanes: faster than expand and compress, whose halves depend on each other.
alignas(64) constexpr auto kExpandEight = expand_table<8, 1>(0, 0);
alignas(64) constexpr auto kCompressEight = compress_table<8, 1>();

inline __m128i indices(const uint8_t* row) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row)); }

template <>
struct Vec<float> {
  using scalar = float;
  using reg = __m512;
  static constexpr int lanes = 16;
  static constexpr int alignment = 8;  // a load that crosses a cache line takes two turns
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 0.8;
  static constexpr double far_cost = 1;

  static reg zero() { return _mm512_setzero_ps(); }
  static reg broadcast(float x) { return _mm512_set1_ps(x); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg r) { _mm512_storeu_ps(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  // x where it is not below zero, else zero: NaN and -0.0 stay
  static reg relu(reg x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, zero(), _CMP_NLT_UQ), x); }
  static float sum(reg r) { return _mm512_reduce_add_ps(r); }
  // sums[i] = the sum of r[i], for eight vectors
  static void sum_each(const reg* r, float* sums) {
    __m256 half[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) half[i] = _mm256_add_ps(_mm512_castps512_ps256(r[i]), _mm512_extractf32x8_ps(r[i], 1));
    _mm256_storeu_ps(sums, sum_of_each(half));
  }
  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static reg join(__m256 low, __m256 high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }
  template <class Index>
  static reg gather(const float* base, const Index* index) {
    return join(gather_eight(base, index), gather_eight(base, index + 8));
  }
  static reg load_partial(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store_partial(float* p, reg r, int count) { _mm512_mask_storeu_ps(p, first(count), r); }
  // p[0], p[2], ...
  static reg load_even(const float* p) { return even(load(p), load(p + 16)); }
  static reg load_even_partial(const float* p, int count) {
    const uint32_t used = static_cast<uint32_t>((uint64_t{1} << (2 * count - 1)) - 1);
    return even(_mm512_maskz_loadu_ps(static_cast<__mmask16>(used), p),
                _mm512_maskz_loadu_ps(static_cast<__mmask16>(used >> 16), p + 16));
  }
  static reg even(reg low, reg high) {
    const __m512i pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(low, pick, high);
  }
  // Densities from which rows are read by bits: measured on one core of a Zen 4.
  static constexpr double dot_bits_from = 0.28, add_bits_from = 0.17, sample_bits_from = 0.31;
  // Rows of fewer nonzeros, in the mean, are multiplied together.
  static constexpr int short_rows = 16 * lanes;
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg load_first(const float* p, int count) { return load_partial(p, count); }
  template <class Index>
  static void add_four(float* sums, const Index* index, float factor, const float* p) {
    inserted_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return _mm_popcnt_u32(bits); }

  struct places {
    __mmask16 kept;
    __m256i low, high;
    int low_count;
  };
  static places places_of(uint32_t bits) {
    const uint32_t low = bits & 0xff;
    return {static_cast<__mmask16>(bits), _mm256_cvtepu8_epi32(indices(kExpandEight.rows[low])),
            _mm256_cvtepu8_epi32(indices(kExpandEight.rows[bits >> 8])), count(low)};
  }
  static reg expand(const float* p, const places& at) {
    return join(_mm256_permutevar8x32_ps(_mm256_loadu_ps(p), at.low),
                _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + at.low_count), at.high));
  }
  static reg fma_where(const places& at, reg a, reg b, reg c) { return _mm512_mask3_fmadd_ps(a, b, c, at.kept); }
  static void compress_to(float* p, reg r, uint32_t bits) {
    const uint32_t low = bits & 0xff;
    const auto compress = [](__m256 half, uint32_t half_bits) {
      return _mm256_permutevar8x32_ps(half, _mm256_cvtepu8_epi32(indices(kCompressEight.rows[half_bits])));
    };
    _mm256_storeu_ps(p, compress(_mm512_castps512_ps256(r), low));
    _mm256_storeu_ps(p + count(low), compress(_mm512_extractf32x8_ps(r, 1), bits >> 8));
  }
};

template <>
struct Vec<double> {
  using scalar = double;
  using reg = __m512d;
  static constexpr int lanes = 8;
  static constexpr int alignment = 4;  // a load that crosses a cache line takes two turns
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 0.8;
  static constexpr double far_cost = 1;

  static reg zero() { return _mm512_setzero_pd(); }
  static reg broadcast(double x) { return _mm512_set1_pd(x); }
  static reg load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, reg r) { _mm512_storeu_pd(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_pd(a, b, c); }
  static reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  static reg relu(reg x) { return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, zero(), _CMP_NLT_UQ), x); }
  static double sum(reg r) { return _mm512_reduce_add_pd(r); }
  static void sum_each(const reg* r, double* sums) {
    for (int i = 0; i < 8; ++i) sums[i] = sum(r[i]);
  }
  static __mmask8 first(int count) { return static_cast<__mmask8>((1u << count) - 1); }
  template <class Index>
  static reg gather(const double* base, const Index* index) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(gather_four(base, index)), gather_four(base, index + 4), 1);
  }
  static reg load_partial(const double* p, int count) { return _mm512_maskz_loadu_pd(first(count), p); }
  static void store_partial(double* p, reg r, int count) { _mm512_mask_storeu_pd(p, first(count), r); }
  static reg load_even(const double* p) { return even(load(p), load(p + 8)); }
  static reg load_even_partial(const double* p, int count) {
    const uint32_t used = (1u << (2 * count - 1)) - 1;
    return even(_mm512_maskz_loadu_pd(static_cast<__mmask8>(used), p),
                _mm512_maskz_loadu_pd(static_cast<__mmask8>(used >> 8), p + 8));
  }
  static reg even(reg low, reg high) { return _mm512_permutex2var_pd(low, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), high); }
  static constexpr double dot_bits_from = 0.38, add_bits_from = 0.24, sample_bits_from = 0.42;
  static constexpr int short_rows = 16 * lanes;
  static reg mul(reg a, reg b) { return _mm512_mul_pd(a, b); }
  static reg load_first(const double* p, int count) { return load_partial(p, count); }
  template <class Index>
  static void add_four(double* sums, const Index* index, double factor, const double* p) {
    scattered_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return _mm_popcnt_u32(bits); }

  struct places {
    __mmask8 kept;
    __m512i from;
  };
  static places places_of(uint32_t bits) {
    return {static_cast<__mmask8>(bits), _mm512_cvtepu8_epi64(indices(kExpandEight.rows[bits]))};
  }
  static reg expand(const double* p, const places& at) { return _mm512_permutexvar_pd(at.from, load(p)); }
  static reg fma_where(const places& at, reg a, reg b, reg c) { return _mm512_mask3_fmadd_pd(a, b, c, at.kept); }
  static void compress_to(double* p, reg r, uint32_t bits) {
    store(p, _mm512_permutexvar_pd(_mm512_cvtepu8_epi64(indices(kCompressEight.rows[bits])), r));
  }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
