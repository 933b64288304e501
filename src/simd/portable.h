// Vectors without an instruction set of their own: the compiler lowers them to what its baseline has.
#pragma once

#include <cstdint>

#include "simd/partial.h"
#include "simd/places.h"
#include "simd/scattered.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
struct PortableVec {
  using scalar = Scalar;
  typedef Scalar reg __attribute__((vector_size(16)));
  static constexpr int lanes = 16 / sizeof(Scalar);
  static constexpr int max_vectors = 6;
  static constexpr int alignment = 1;
  static constexpr int unroll = 1;
  static constexpr double nonzero_cost = 1;
  static constexpr double far_cost = 1;

  static reg zero() { return reg{}; }
  static reg broadcast(Scalar x) { return x - reg{}; }  // keeps -0.0, as adding zero would not
  static reg load(const Scalar* p) {
    reg r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
  }
  static void store(Scalar* p, reg r) { __builtin_memcpy(p, &r, sizeof r); }
  static reg fma(reg a, reg b, reg c) { return a * b + c; }
  static reg add(reg a, reg b) { return a + b; }
  // x where it is not below zero, else zero: NaN and -0.0 stay
  static reg relu(reg x) {
    for (int i = 0; i < lanes; ++i) x[i] = x[i] < 0 ? 0 : x[i];
    return x;
  }
  static Scalar sum(reg r) {
    Scalar total = r[0];
    for (int i = 1; i < lanes; ++i) total += r[i];
    return total;
  }
  static void sum_each(const reg* r, Scalar* sums) {
    for (int i = 0; i < 8; ++i) sums[i] = sum(r[i]);
  }
  template <class Index>
  static reg gather(const Scalar* base, const Index* index) {
    reg r;
    for (int i = 0; i < lanes; ++i) r[i] = base[index[i]];
    return r;
  }
  static reg load_partial(const Scalar* p, int count) { return partial_load<PortableVec>(p, count); }
  static void store_partial(Scalar* p, reg r, int count) { partial_store<PortableVec>(p, r, count); }
  static reg load_even(const Scalar* p) { return partial_load_even<PortableVec>(p, lanes); }
  static reg load_even_partial(const Scalar* p, int count) { return partial_load_even<PortableVec>(p, count); }
  // Densities from which rows are read by bits: never: there is nothing to move lanes with.
  static constexpr double dot_bits_from = 2, add_bits_from = 2, sample_bits_from = 2;
  // Rows of fewer nonzeros, in the mean, are multiplied together.
  static constexpr int short_rows = 16 * lanes;
  static reg mul(reg a, reg b) { return a * b; }
  static reg load_first(const Scalar* p, int count) { return load_partial(p, count); }
  template <class Index>
  static void add_four(Scalar* sums, const Index* index, Scalar factor, const Scalar* p) {
    scattered_add_four(sums, index, factor, p);
  }
  static int count(uint32_t bits) { return count_of_four(bits); }

  using places = uint32_t;
  static places places_of(uint32_t bits) { return bits; }
  static reg expand(const Scalar* p, places at) {
    reg r{};
    for (int i = 0; i < lanes; ++i) {
      if (at >> i & 1) r[i] = *p++;
    }
    return r;
  }
  static reg fma_where(places at, reg a, reg b, reg c) {
    for (int i = 0; i < lanes; ++i) c[i] = at >> i & 1 ? a[i] * b[i] + c[i] : c[i];
    return c;
  }
  static void compress_to(Scalar* p, reg r, uint32_t bits) {
    for (int i = 0; i < lanes; ++i) {
      if (bits >> i & 1) *p++ = r[i];
    }
  }
};

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
