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
// acc[t] += weights[element] * x[t] for up to four t, and for eight, with one load of four: compilers hoist such loads until
// accumulators spill, so both the order and the registers are set here. Two banks of registers let a core without reordering load
// the one and multiply the other. Returns the x after the last.
#define MPL_SPARSE_ACC(t) [a##t] "+w"(acc[t])
#define MPL_SPARSE_LOAD(form, first, last, bytes) "ld1 {v" #first "." form "-v" #last "." form "}, [%[x]], #" #bytes "\n"
#define MPL_SPARSE_FMLA(form, lane, t, from) "fmla %[a" #t "]." form ", v" #from "." form ", %[w]." lane "[%c[e]]\n"
#define MPL_SPARSE_FMLA_1(form, lane) MPL_SPARSE_FMLA(form, lane, 0, 28)
#define MPL_SPARSE_FMLA_2(form, lane) MPL_SPARSE_FMLA_1(form, lane) MPL_SPARSE_FMLA(form, lane, 1, 29)
#define MPL_SPARSE_FMLA_3(form, lane) MPL_SPARSE_FMLA_2(form, lane) MPL_SPARSE_FMLA(form, lane, 2, 30)
#define MPL_SPARSE_FMLA_4(form, lane) MPL_SPARSE_FMLA_3(form, lane) MPL_SPARSE_FMLA(form, lane, 3, 31)
#define MPL_SPARSE_FMLA_8(form, lane) \
  MPL_SPARSE_FMLA_4(form, lane)       \
  MPL_SPARSE_FMLA(form, lane, 4, 24)  \
  MPL_SPARSE_FMLA(form, lane, 5, 25) MPL_SPARSE_FMLA(form, lane, 6, 26) MPL_SPARSE_FMLA(form, lane, 7, 27)
#define MPL_SPARSE_LOAD_1(form) "ld1 {v28." form "}, [%[x]], #16\n"
#define MPL_SPARSE_LOAD_2(form) MPL_SPARSE_LOAD(form, 28, 29, 32)
#define MPL_SPARSE_LOAD_3(form) MPL_SPARSE_LOAD(form, 28, 30, 48)
#define MPL_SPARSE_LOAD_4(form) MPL_SPARSE_LOAD(form, 28, 31, 64)
#define MPL_SPARSE_LOAD_8(form) MPL_SPARSE_LOAD_4(form) MPL_SPARSE_LOAD(form, 24, 27, 64)
#define MPL_SPARSE_USED_4 "v28", "v29", "v30", "v31"
#define MPL_SPARSE_USED_8 "v24", "v25", "v26", "v27", MPL_SPARSE_USED_4
#define MPL_SPARSE_DEFINE(count, used, Reg, form, lane, ...)                                           \
  template <int element, class Scalar>                                                                 \
  [[gnu::always_inline]] inline const Scalar* multiply_add_##count(Reg w, const Scalar* x, Reg* acc) { \
    asm volatile(MPL_SPARSE_LOAD_##count(form) MPL_SPARSE_FMLA_##count(form, lane)                     \
                 : [x] "+r"(x), __VA_ARGS__                                                            \
                 : [w] "w"(w), [e] "i"(element)                                                        \
                 : "memory", used);                                                                    \
    return x;                                                                                          \
  }
#define MPL_SPARSE_DEFINE_ALL(Reg, form, lane)                                                                      \
  MPL_SPARSE_DEFINE(1, MPL_SPARSE_USED_4, Reg, form, lane, MPL_SPARSE_ACC(0))                                       \
  MPL_SPARSE_DEFINE(2, MPL_SPARSE_USED_4, Reg, form, lane, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1))                    \
  MPL_SPARSE_DEFINE(3, MPL_SPARSE_USED_4, Reg, form, lane, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1), MPL_SPARSE_ACC(2)) \
  MPL_SPARSE_DEFINE(4, MPL_SPARSE_USED_4, Reg, form, lane, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1), MPL_SPARSE_ACC(2), \
                    MPL_SPARSE_ACC(3))                                                                              \
  MPL_SPARSE_DEFINE(8, MPL_SPARSE_USED_8, Reg, form, lane, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1), MPL_SPARSE_ACC(2), \
                    MPL_SPARSE_ACC(3), MPL_SPARSE_ACC(4), MPL_SPARSE_ACC(5), MPL_SPARSE_ACC(6), MPL_SPARSE_ACC(7))
MPL_SPARSE_DEFINE_ALL(float32x4_t, "4s", "s")
MPL_SPARSE_DEFINE_ALL(float64x2_t, "2d", "d")
#undef MPL_SPARSE_DEFINE_ALL
#undef MPL_SPARSE_DEFINE
#undef MPL_SPARSE_USED_8
#undef MPL_SPARSE_USED_4
#undef MPL_SPARSE_LOAD_8
#undef MPL_SPARSE_LOAD_4
#undef MPL_SPARSE_LOAD_3
#undef MPL_SPARSE_LOAD_2
#undef MPL_SPARSE_LOAD_1
#undef MPL_SPARSE_FMLA_8
#undef MPL_SPARSE_FMLA_4
#undef MPL_SPARSE_FMLA_3
#undef MPL_SPARSE_FMLA_2
#undef MPL_SPARSE_FMLA_1
#undef MPL_SPARSE_FMLA
#undef MPL_SPARSE_LOAD
#undef MPL_SPARSE_ACC

// acc[t] += weights[element] * x[t] for t < T. Wide tiles leave registers for one bank.
template <int T, int element, class Reg, class Scalar>
[[gnu::always_inline]] inline void multiply_add_all(Reg weights, const Scalar* x, Reg* acc) {
  constexpr int eights = T <= 22 ? T / 8 * 8 : 0;
#pragma GCC unroll 2
  for (int t = 0; t < eights; t += 8) x = multiply_add_8<element>(weights, x, acc + t);
#pragma GCC unroll 8
  for (int t = eights; t + 4 <= T; t += 4) x = multiply_add_4<element>(weights, x, acc + t);
  if constexpr (T % 4 == 3) multiply_add_3<element>(weights, x, acc + T - 3);
  if constexpr (T % 4 == 2) multiply_add_2<element>(weights, x, acc + T - 2);
  if constexpr (T % 4 == 1) multiply_add_1<element>(weights, x, acc + T - 1);
}

// x[i] = packed + offset[i] for four i, and on to the next four. Two offsets of one word become addresses by an addition each:
// the shift that scales the higher one leaves the lower one's highest bits below it, which are zero within Vec::reach.
template <class Scalar>
[[gnu::always_inline]] inline void add_offsets(const Scalar* packed, const uint16_t*& offset, const Scalar* (&x)[4]) {
  constexpr int scale = sizeof(Scalar) == 4 ? 2 : 3;
  asm volatile("ldp %w[x0], %w[x2], [%[offset]], #8\n"
               "add %[x1], %[packed], %[x0], lsr #%c[high]\n"
               "add %[x0], %[packed], %w[x0], uxth #%c[low]\n"
               "add %[x3], %[packed], %[x2], lsr #%c[high]\n"
               "add %[x2], %[packed], %w[x2], uxth #%c[low]\n"
               : [x0] "=&r"(x[0]), [x1] "=&r"(x[1]), [x2] "=&r"(x[2]), [x3] "=&r"(x[3]), [offset] "+r"(offset)
               : [packed] "r"(packed), [low] "i"(scale), [high] "i"(16 - scale)
               : "memory");
}
#else
// acc[t] += w * x[t] for up to four t, with one load, as on aarch64. Returns the x after the last.
#define MPL_SPARSE_ACC(t) [a##t] "+w"(acc[t])
#define MPL_SPARSE_FMLA_1 "vfma.f32 %q[a0], q12, %q[w]\n"
#define MPL_SPARSE_FMLA_2 MPL_SPARSE_FMLA_1 "vfma.f32 %q[a1], q13, %q[w]\n"
#define MPL_SPARSE_FMLA_3 MPL_SPARSE_FMLA_2 "vfma.f32 %q[a2], q14, %q[w]\n"
#define MPL_SPARSE_FMLA_4 MPL_SPARSE_FMLA_3 "vfma.f32 %q[a3], q15, %q[w]\n"
#define MPL_SPARSE_DEFINE(count, last, ...)                                                                          \
  [[gnu::always_inline]] inline const float* multiply_add_##count(float32x4_t w, const float* x, float32x4_t* acc) { \
    asm volatile("vldmia %[x]!, {d24-d" #last "}\n" MPL_SPARSE_FMLA_##count                                          \
                 : [x] "+r"(x), __VA_ARGS__                                                                          \
                 : [w] "w"(w)                                                                                        \
                 : "memory", "q12", "q13", "q14", "q15");                                                            \
    return x;                                                                                                        \
  }
MPL_SPARSE_DEFINE(1, 25, MPL_SPARSE_ACC(0))
MPL_SPARSE_DEFINE(2, 27, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1))
MPL_SPARSE_DEFINE(3, 29, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1), MPL_SPARSE_ACC(2))
MPL_SPARSE_DEFINE(4, 31, MPL_SPARSE_ACC(0), MPL_SPARSE_ACC(1), MPL_SPARSE_ACC(2), MPL_SPARSE_ACC(3))
#undef MPL_SPARSE_DEFINE
#undef MPL_SPARSE_FMLA_4
#undef MPL_SPARSE_FMLA_3
#undef MPL_SPARSE_FMLA_2
#undef MPL_SPARSE_FMLA_1
#undef MPL_SPARSE_ACC

// acc[t] += w * x[t] for t < T.
template <int T>
[[gnu::always_inline]] inline void multiply_add_all(float32x4_t w, const float* x, float32x4_t* acc) {
#pragma GCC unroll 4
  for (int t = 0; t + 4 <= T; t += 4) x = multiply_add_4(w, x, acc + t);
  if constexpr (T % 4 == 3) multiply_add_3(w, x, acc + T - 3);
  if constexpr (T % 4 == 2) multiply_add_2(w, x, acc + T - 2);
  if constexpr (T % 4 == 1) multiply_add_1(w, x, acc + T - 1);
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
  static constexpr int max_vectors = 26;
  static constexpr int unroll = 4;
  static constexpr int reach = 1 << 14;
#else
  static constexpr int max_vectors = 11;
  static constexpr int unroll = 1;
  static constexpr int reach = 1 << 16;
#endif
  static constexpr double split_cost = 1;
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
  // The next `unroll` weights, or one. Compilers would find the pointer anew after a loop.
  static weights next_weights(const float*& p) {
    weights w;
    asm volatile("ldr %q[w], [%[p]], #16" : [w] "=w"(w), [p] "+r"(p) : : "memory");
    return w;
  }
  static weights next_weight(const float*& p) {
    weights w;
    asm volatile("ldr %s[w], [%[p]], #4" : [w] "=w"(w), [p] "+r"(p) : : "memory");
    return w;
  }
  template <int T, int element>
  static void multiply_add(weights w, const float* x, reg* acc) {
    multiply_add_all<T, element>(w, x, acc);
  }
  static void next_addresses(const float* packed, const uint16_t*& offset, const float* (&x)[unroll]) {
    add_offsets(packed, offset, x);
  }
#else
  using weights = reg;
  static weights next_weight(const float*& p) {
    weights w;
    asm volatile("vld1.32 {%e[w][], %f[w][]}, [%[p]]!" : [w] "=w"(w), [p] "+r"(p) : : "memory");
    return w;
  }
  static weights next_weights(const float*& p) { return next_weight(p); }
  template <int T, int element>
  static void multiply_add(weights w, const float* x, reg* acc) {
    multiply_add_all<T>(w, x, acc);
  }
  static void next_addresses(const float* packed, const uint16_t*& offset, const float* (&x)[unroll]) {
    x[0] = packed + *offset++;
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
  // the same, without a look at the element after the last
  static reg load_even_last(const float* p) {
    const reg first = load(p), last = load(p + 3);
    return vcombine_f32(vuzp_f32(vget_low_f32(first), vget_high_f32(first)).val[0],
                        vuzp_f32(vget_low_f32(last), vget_high_f32(last)).val[1]);
  }
  // p[1], p[3], ...; reads what load_even reads
  static reg load_odd(const float* p) { return vld2q_f32(p).val[1]; }
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
  static constexpr int max_vectors = 26;
  static constexpr int unroll = 4;
  static constexpr int reach = 1 << 13;
  static constexpr double split_cost = 1;
  static constexpr double nonzero_cost = 2;
  static constexpr double far_cost = 4;

  static reg zero() { return vdupq_n_f64(0); }
  static reg broadcast(double x) { return vdupq_n_f64(x); }
  static reg load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, reg r) { vst1q_f64(p, r); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f64(c, a, b); }
  static reg add(reg a, reg b) { return vaddq_f64(a, b); }
  static reg relu(reg x) { return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(x), vcltq_f64(x, zero()))); }
  using weights = float64x2x2_t;
  static weights next_weights(const double*& p) {
    weights w;
    asm volatile("ldp %q[low], %q[high], [%[p]], #32" : [low] "=w"(w.val[0]), [high] "=w"(w.val[1]), [p] "+r"(p) : : "memory");
    return w;
  }
  static weights next_weight(const double*& p) {
    weights w;
    asm volatile("ldr %d[w], [%[p]], #8" : [w] "=w"(w.val[0]), [p] "+r"(p) : : "memory");
    return w;
  }
  template <int T, int element>
  static void multiply_add(weights w, const double* x, reg* acc) {
    multiply_add_all<T, element % 2>(w.val[element / 2], x, acc);
  }
  static void next_addresses(const double* packed, const uint16_t*& offset, const double* (&x)[unroll]) {
    add_offsets(packed, offset, x);
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
  static reg load_even_last(const double* p) { return vcombine_f64(vld1_f64(p), vld1_f64(p + 2)); }
  static reg load_odd(const double* p) { return vld2q_f64(p).val[1]; }
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
