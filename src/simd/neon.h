// NEON: 128-bit registers, thirty-two on aarch64 and sixteen on armv7, which has no vectors of double.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/partial.h"
#include "simd/places.h"
#include "simd/scattered.h"
#ifndef __aarch64__
#include "simd/portable.h"
#endif

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct Vec;

#ifdef __aarch64__
// acc[t] += weights[element] * x[t], for four and for eight t: compilers hoist such loads until accumulators spill, so both the
// order and the registers are set here. Two banks of registers let a core without reordering load the one and multiply the other.
#define MPL_SPARSE_LOAD_4(form, a, b, c, d) \
  "ld1 {v" #a "." form ", v" #b "." form ", v" #c "." form ", v" #d "." form "}, [%[x]], #64\n"
#define MPL_SPARSE_FMLA(form, lane, t, from) "fmla %[a" #t "]." form ", v" #from "." form ", %[w]." lane "[%c[e]]\n"
#define MPL_SPARSE_LOW_4(form, lane) \
  MPL_SPARSE_FMLA(form, lane, 0, 24) \
  MPL_SPARSE_FMLA(form, lane, 1, 25) MPL_SPARSE_FMLA(form, lane, 2, 26) MPL_SPARSE_FMLA(form, lane, 3, 27)
#define MPL_SPARSE_HIGH_4(form, lane) \
  MPL_SPARSE_FMLA(form, lane, 4, 28)  \
  MPL_SPARSE_FMLA(form, lane, 5, 29) MPL_SPARSE_FMLA(form, lane, 6, 30) MPL_SPARSE_FMLA(form, lane, 7, 31)
#define MPL_SPARSE_DEFINE(Reg, form, lane)                                                                                     \
  template <int element, class Scalar>                                                                                         \
  [[gnu::always_inline]] inline const Scalar* multiply_add_4(Reg weights, const Scalar* x, Reg* acc) {                         \
    asm volatile(MPL_SPARSE_LOAD_4(form, 24, 25, 26, 27) MPL_SPARSE_LOW_4(form, lane)                                          \
                 : [x] "+r"(x), [a0] "+w"(acc[0]), [a1] "+w"(acc[1]), [a2] "+w"(acc[2]), [a3] "+w"(acc[3])                     \
                 : [w] "w"(weights), [e] "i"(element)                                                                          \
                 : "memory", "v24", "v25", "v26", "v27");                                                                      \
    return x;                                                                                                                  \
  }                                                                                                                            \
  template <int element, class Scalar>                                                                                         \
  [[gnu::always_inline]] inline const Scalar* multiply_add_8(Reg weights, const Scalar* x, Reg* acc) {                         \
    asm volatile(MPL_SPARSE_LOAD_4(form, 24, 25, 26, 27) MPL_SPARSE_LOAD_4(form, 28, 29, 30, 31) MPL_SPARSE_LOW_4(form, lane)  \
                     MPL_SPARSE_HIGH_4(form, lane)                                                                             \
                 : [x] "+r"(x), [a0] "+w"(acc[0]), [a1] "+w"(acc[1]), [a2] "+w"(acc[2]), [a3] "+w"(acc[3]), [a4] "+w"(acc[4]), \
                   [a5] "+w"(acc[5]), [a6] "+w"(acc[6]), [a7] "+w"(acc[7])                                                     \
                 : [w] "w"(weights), [e] "i"(element)                                                                          \
                 : "memory", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");                                          \
    return x;                                                                                                                  \
  }
MPL_SPARSE_DEFINE(float32x4_t, "4s", "s")
MPL_SPARSE_DEFINE(float64x2_t, "2d", "d")
#undef MPL_SPARSE_DEFINE
#undef MPL_SPARSE_HIGH_4
#undef MPL_SPARSE_LOW_4
#undef MPL_SPARSE_FMLA
#undef MPL_SPARSE_LOAD_4

// acc[t] += weights[element] * x[t] for t < T.
template <class V, int T, int element>
[[gnu::always_inline]] inline void multiply_add_all(typename V::reg weights, const typename V::scalar* x, typename V::reg* acc) {
#pragma GCC unroll 4
  for (int t = 0; t + 8 <= T; t += 8) x = multiply_add_8<element>(weights, x, acc + t);
  if constexpr (T % 8 >= 4) x = multiply_add_4<element>(weights, x, acc + T / 8 * 8);
#pragma GCC unroll 4
  for (int t = T / 4 * 4; t < T; ++t) acc[t] = V::template fma_element<element>(weights, V::load(x + t % 4 * V::lanes), acc[t]);
}
#endif

// Bytes for tbl; what is no lane's lies outside, and becomes zero.
alignas(64) constexpr auto kExpandFour = expand_table<4, 4>(0, 0xff);
alignas(64) constexpr auto kCompressFour = compress_table<4, 4>();
#ifdef __aarch64__
alignas(64) constexpr auto kExpandTwo = expand_table<2, 8>(0, 0xff);
alignas(64) constexpr auto kCompressTwo = compress_table<2, 8>();
#endif

inline uint8x16_t look_up(uint8x16_t bytes, uint8x16_t at) {
#ifdef __aarch64__
  return vqtbl1q_u8(bytes, at);
#else
  const uint8x8x2_t halves = {{vget_low_u8(bytes), vget_high_u8(bytes)}};
  return vcombine_u8(vtbl2_u8(halves, vget_low_u8(at)), vtbl2_u8(halves, vget_high_u8(at)));
#endif
}

template <>
struct Vec<float> {
  using scalar = float;
  using reg = float32x4_t;
  static constexpr int lanes = 4;
  static constexpr int alignment = 1;  // cores read 16 bytes from anywhere
#ifdef __aarch64__
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 4;
#else
  static constexpr int max_vectors = 12;
  static constexpr int unroll = 1;
#endif
  static constexpr double nonzero_cost = 2;
  static constexpr double far_cost = 4;

  static reg zero() { return vdupq_n_f32(0); }
  static reg broadcast(float x) { return vdupq_n_f32(x); }
  static reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, reg r) { vst1q_f32(p, r); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f32(c, a, b); }
  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  // x where it is not below zero, else zero: NaN and -0.0 stay
  static reg relu(reg x) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), vcltq_f32(x, zero()))); }
#ifdef __aarch64__
  using weights = reg;
  static weights load_weights(const float* p) { return vld1q_f32(p); }
  static weights load_weight(const float* p) { return vld1q_dup_f32(p); }
  template <int element>
  static reg fma_element(weights w, reg x, reg acc) {
    return vfmaq_laneq_f32(acc, x, w, element);
  }
  template <int T, int element>
  static void multiply_add(weights w, const float* x, reg* acc) {
    multiply_add_all<Vec, T, element>(w, x, acc);
  }
#endif
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
  // Densities from which rows are read by bits: by instructions: a gather is four loads of lanes.
  static constexpr double dot_bits_from = 0.95, add_bits_from = 0.7, sample_bits_from = 0.95;
  // Rows of fewer nonzeros, in the mean, are multiplied together.
  static constexpr int short_rows = 16 * lanes;
  static reg mul(reg a, reg b) { return vmulq_f32(a, b); }
  static reg load_first(const float* p, int count) {
    static constexpr uint32_t kept[8] = {~0u, ~0u, ~0u, ~0u};
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(load(p)), vld1q_u32(kept + lanes - count)));
  }
  template <class Index>
  static void add_four(float* sums, const Index* index, float factor, const float* p) {
    scattered_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return count_of_four(bits); }

  using places = uint8x16_t;
  static places places_of(uint32_t bits) { return vld1q_u8(kExpandFour.rows[bits]); }
  static reg look_up_lanes(reg r, uint8x16_t bytes) { return vreinterpretq_f32_u8(look_up(vreinterpretq_u8_f32(r), bytes)); }
  static reg expand(const float* p, places at) { return look_up_lanes(load(p), at); }
  static reg fma_where(places at, reg a, reg b, reg c) {
    const uint8x16_t none = vcgeq_u8(at, vdupq_n_u8(0x80));
    return vbslq_f32(vreinterpretq_u32_u8(none), c, fma(a, b, c));
  }
  static void compress_to(float* p, reg r, uint32_t bits) { store(p, look_up_lanes(r, vld1q_u8(kCompressFour.rows[bits]))); }
};

#ifdef __aarch64__
template <>
struct Vec<double> {
  using scalar = double;
  using reg = float64x2_t;
  static constexpr int lanes = 2;
  static constexpr int alignment = 1;  // cores read 16 bytes from anywhere
  static constexpr int max_vectors = 20;
  static constexpr int unroll = 2;
  static constexpr double nonzero_cost = 2;
  static constexpr double far_cost = 4;

  static reg zero() { return vdupq_n_f64(0); }
  static reg broadcast(double x) { return vdupq_n_f64(x); }
  static reg load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, reg r) { vst1q_f64(p, r); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f64(c, a, b); }
  static reg add(reg a, reg b) { return vaddq_f64(a, b); }
  static reg relu(reg x) { return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(x), vcltq_f64(x, zero()))); }
  using weights = reg;
  static weights load_weights(const double* p) { return vld1q_f64(p); }
  static weights load_weight(const double* p) { return vld1q_dup_f64(p); }
  template <int element>
  static reg fma_element(weights w, reg x, reg acc) {
    return vfmaq_laneq_f64(acc, x, w, element);
  }
  template <int T, int element>
  static void multiply_add(weights w, const double* x, reg* acc) {
    multiply_add_all<Vec, T, element>(w, x, acc);
  }
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
  static constexpr double dot_bits_from = 2, add_bits_from = 2, sample_bits_from = 2;
  static constexpr int short_rows = 16 * lanes;
  static reg mul(reg a, reg b) { return vmulq_f64(a, b); }
  static reg load_first(const double* p, int count) {
    static constexpr uint64_t kept[4] = {~uint64_t{0}, ~uint64_t{0}};
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(load(p)), vld1q_u64(kept + lanes - count)));
  }
  template <class Index>
  static void add_four(double* sums, const Index* index, double factor, const double* p) {
    scattered_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return count_of_four(bits); }

  using places = uint8x16_t;
  static places places_of(uint32_t bits) { return vld1q_u8(kExpandTwo.rows[bits]); }
  static reg look_up_lanes(reg r, uint8x16_t bytes) { return vreinterpretq_f64_u8(look_up(vreinterpretq_u8_f64(r), bytes)); }
  static reg expand(const double* p, places at) { return look_up_lanes(load(p), at); }
  static reg fma_where(places at, reg a, reg b, reg c) {
    const uint8x16_t none = vcgeq_u8(at, vdupq_n_u8(0x80));
    return vbslq_f64(vreinterpretq_u64_u8(none), c, fma(a, b, c));
  }
  static void compress_to(double* p, reg r, uint32_t bits) { store(p, look_up_lanes(r, vld1q_u8(kCompressTwo.rows[bits]))); }
};
#else
template <>
struct Vec<double> : PortableVec<double> {};
#endif

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
