// NEON: 128-bit registers, thirty-two on aarch64 and sixteen on armv7, which has no vectors of double.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/partial.h"
#ifndef __aarch64__
#include "simd/portable.h"
#endif

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

template <>
struct Vec<float> {
  using scalar = float;
  using reg = float32x4_t;
  static constexpr int lanes = 4;
  static constexpr int alignment = 1;  // cores read 16 bytes from anywhere
#ifdef __aarch64__
  static constexpr int max_vectors = 24;
#else
  static constexpr int max_vectors = 12;
#endif

  static reg zero() { return vdupq_n_f32(0); }
  static reg broadcast(float x) { return vdupq_n_f32(x); }
  static reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, reg r) { vst1q_f32(p, r); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f32(c, a, b); }
  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  // x where it is not below zero, else zero: NaN and -0.0 stay
  static reg relu(reg x) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), vcltq_f32(x, zero()))); }
  static float sum(reg r) {
    const float32x2_t half = vadd_f32(vget_low_f32(r), vget_high_f32(r));
    return vget_lane_f32(vpadd_f32(half, half), 0);
  }
  // sums[i] = the sum of r[i], for eight vectors
  static void sum_each(const reg* r, float* sums) {
    for (int i = 0; i < 8; ++i) sums[i] = sum(r[i]);
  }
  template <class Index>
  static reg gather(const float* base, const Index* index) {
    reg r = vdupq_n_f32(base[index[0]]);
    r = vld1q_lane_f32(base + index[1], r, 1);
    r = vld1q_lane_f32(base + index[2], r, 2);
    return vld1q_lane_f32(base + index[3], r, 3);
  }
  static reg load_partial(const float* p, int count) { return partial_load<Vec>(p, count); }
  static void store_partial(float* p, reg r, int count) { partial_store<Vec>(p, r, count); }
  // p[0], p[2], ...
  static reg load_even(const float* p) { return vld2q_f32(p).val[0]; }
  static reg load_even_partial(const float* p, int count) { return partial_load_even<Vec>(p, count); }
  template <class Index>
  static reg gather_partial(const float* base, const Index* index, int count) {
    return partial_gather<Vec>(base, index, count);
  }
};

#ifdef __aarch64__
template <>
struct Vec<double> {
  using scalar = double;
  using reg = float64x2_t;
  static constexpr int lanes = 2;
  static constexpr int alignment = 1;  // cores read 16 bytes from anywhere
  static constexpr int max_vectors = 24;

  static reg zero() { return vdupq_n_f64(0); }
  static reg broadcast(double x) { return vdupq_n_f64(x); }
  static reg load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, reg r) { vst1q_f64(p, r); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f64(c, a, b); }
  static reg add(reg a, reg b) { return vaddq_f64(a, b); }
  static reg relu(reg x) { return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(x), vcltq_f64(x, zero()))); }
  static double sum(reg r) { return vaddvq_f64(r); }
  static void sum_each(const reg* r, double* sums) {
    for (int i = 0; i < 8; ++i) sums[i] = sum(r[i]);
  }
  template <class Index>
  static reg gather(const double* base, const Index* index) {
    return vld1q_lane_f64(base + index[1], vdupq_n_f64(base[index[0]]), 1);
  }
  static reg load_partial(const double* p, int count) { return partial_load<Vec>(p, count); }
  static void store_partial(double* p, reg r, int count) { partial_store<Vec>(p, r, count); }
  static reg load_even(const double* p) { return vld2q_f64(p).val[0]; }
  static reg load_even_partial(const double* p, int count) { return partial_load_even<Vec>(p, count); }
  template <class Index>
  static reg gather_partial(const double* base, const Index* index, int count) {
    return partial_gather<Vec>(base, index, count);
  }
};
#else
template <>
struct Vec<double> : PortableVec<double> {};
#endif

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
