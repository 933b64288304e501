// AVX-512 (F, VL, BW, DQ): thirty-two registers of 512 bits, masks for the last few elements.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

template <>
struct Vec<float> {
  using scalar = float;
  using reg = __m512;
  static constexpr int lanes = 16;
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 1;

  static reg zero() { return _mm512_setzero_ps(); }
  static reg broadcast(float x) { return _mm512_set1_ps(x); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg r) { _mm512_storeu_ps(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static float sum(reg r) { return _mm512_reduce_add_ps(r); }
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
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 1;

  static reg zero() { return _mm512_setzero_pd(); }
  static reg broadcast(double x) { return _mm512_set1_pd(x); }
  static reg load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, reg r) { _mm512_storeu_pd(p, r); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_pd(a, b, c); }
  static reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  static double sum(reg r) { return _mm512_reduce_add_pd(r); }
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
  template <class Index>
  static reg gather_partial(const double* base, const Index* index, int count) {
    return _mm512_mask_i32gather_pd(zero(), first(count), widen_partial(index, count), base, 8);
  }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
