// AVX-512 (F, VL, BW, DQ): thirty-two registers of 512 bits, masks for the last few elements.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/sum_of_each.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

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
  static __m512i widen(const uint16_t* index) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
  }
  static __m512i widen(const int32_t* index) { return _mm512_loadu_si512(index); }
  static __m512i widen_partial(const uint16_t* index, int count) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), index));
  }
  static __m512i widen_partial(const int32_t* index, int count) { return _mm512_maskz_loadu_epi32(first(count), index); }
  template <class Index>
  static reg gather(const float* base, const Index* index) {
    return _mm512_i32gather_ps(widen(index), base, 4);
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
  template <class Index>
  static reg gather_partial(const float* base, const Index* index, int count) {
    return _mm512_mask_i32gather_ps(zero(), first(count), widen_partial(index, count), base, 4);
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
  static __m256i widen(const uint16_t* index) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
  }
  static __m256i widen(const int32_t* index) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)); }
  static __m256i widen_partial(const uint16_t* index, int count) {
    return _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(first(count), index));
  }
  static __m256i widen_partial(const int32_t* index, int count) { return _mm256_maskz_loadu_epi32(first(count), index); }
  template <class Index>
  static reg gather(const double* base, const Index* index) {
    return _mm512_i32gather_pd(widen(index), base, 8);
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
  template <class Index>
  static reg gather_partial(const double* base, const Index* index, int count) {
    return _mm512_mask_i32gather_pd(zero(), first(count), widen_partial(index, count), base, 8);
  }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
