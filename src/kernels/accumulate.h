// The micro-kernel: for each nonzero one broadcast and T multiply-adds from the packed tile into T registers.
//
// Convolution, 1x1 convolution, linear layers on a batch and the gradient to the input are all this loop over other plans.
#pragma once

#include "kernels/interface.h"
#include "kernels/prefetch.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// Narrow tiles take several nonzeros at a time, each with registers of its own, so that multiply-adds do not wait for each other.
constexpr int interleaved(int vectors) { return vectors >= kInOrderVectors ? 1 : vectors >= 3 ? 2 : vectors == 2 ? 4 : 8; }

// Where the value of entry k stands, in a block whose row starts at `first`.
struct InOrder {
  static constexpr bool in_order = true;
  static uint32_t value(const BlockRows&, uint32_t, uint32_t k) { return k; }
};
struct ByPlace {
  static constexpr bool in_order = false;
  static uint32_t value(const BlockRows& block, uint32_t first, uint32_t k) { return first + block.places[k]; }
};

// V::unroll nonzeros whose weights and addresses were loaded together.
template <class V, int T, int element = 0>
[[gnu::always_inline]] inline void accumulate_several(const typename V::weights& weights,
                                                      const typename V::scalar* const (&x)[V::unroll],
                                                      typename V::reg (&acc)[T]) {
  V::template multiply_add<T, element>(weights, x[element], acc);
  if constexpr (element + 1 < V::unroll) accumulate_several<V, T, element + 1>(weights, x, acc);
}

// One group's nonzeros with the multiply-adds of V::unroll nonzeros as the vector unit orders them (V::unroll > 0).
template <class V, int T>
[[gnu::always_inline]] inline void accumulate_in_turn(const typename V::scalar* packed, const uint16_t* offset,
                                                      const typename V::scalar* weight, ptrdiff_t count,
                                                      typename V::reg (&acc)[T]) {
  for (count -= V::unroll; count >= 0; count -= V::unroll) {
    const typename V::scalar* x[V::unroll];
    V::next_addresses(packed, offset, x);
    accumulate_several<V, T>(V::next_weights(weight), x, acc);
  }
  for (count += V::unroll; count > 0; --count, ++offset) {
    V::template multiply_add<T, 0>(V::next_weight(weight), packed + *offset, acc);
  }
}

template <class V, int T, class Order>
void accumulate_groups(const typename V::scalar* packed, const BlockRows& rows, const typename V::scalar* values, Start start,
                       typename V::scalar* sums) {
  using reg = typename V::reg;
  BlockRows block = rows;  // stores through vectors might change what is only referred to
  if (Order::in_order) block.places = nullptr;
  if (V::alignment == 1) block.num_shifts = 1;
  constexpr int sets = interleaved(T);
  const uint32_t* bound = block.bounds;
  for (int64_t row = 0; row < block.rows; ++row, ++bound) {
    const uint32_t first = *bound;
    if (row + kRowsAhead < block.rows) prefetch_row(block, bound + kRowsAhead * (block.num_shifts + 1), values);
    for (int64_t shift = 0; shift < block.num_shifts; ++shift, ++bound, sums += T * V::lanes) {
      uint32_t k = bound[0];
      const uint32_t end = bound[1];
      reg acc[sets][T];
      if (start == Start::sums) {
        if (k == end) continue;
#pragma GCC unroll 32
        for (int t = 0; t < T; ++t) acc[0][t] = V::load(sums + t * V::lanes);
      } else {
#pragma GCC unroll 32
        for (int t = 0; t < T; ++t) acc[0][t] = V::zero();
      }
      if constexpr (Order::in_order && sets == 1 && V::unroll > 0) {
        accumulate_in_turn<V, T>(packed, block.offsets + k, values + k, static_cast<ptrdiff_t>(end - k), acc[0]);
        k = end;
      }
      if (sets > 1) {
#pragma GCC unroll 8
        for (int s = 1; s < sets; ++s) {
#pragma GCC unroll 32
          for (int t = 0; t < T; ++t) acc[s][t] = V::zero();
        }
        for (; k + sets <= end; k += sets) {
#pragma GCC unroll 8
          for (int s = 0; s < sets; ++s) {
            const reg weight = V::broadcast(values[Order::value(block, first, k + s)]);
            const typename V::scalar* x = packed + block.offsets[k + s];
#pragma GCC unroll 32
            for (int t = 0; t < T; ++t) acc[s][t] = V::fma(weight, V::load(x + t * V::lanes), acc[s][t]);
          }
        }
      }
      for (; k < end; ++k) {
        const reg weight = V::broadcast(values[Order::value(block, first, k)]);
        const typename V::scalar* x = packed + block.offsets[k];
#pragma GCC unroll 32
        for (int t = 0; t < T; ++t) acc[0][t] = V::fma(weight, V::load(x + t * V::lanes), acc[0][t]);
      }
#pragma GCC unroll 8
      for (int s = 1; s < sets; ++s) {
#pragma GCC unroll 32
        for (int t = 0; t < T; ++t) acc[0][t] = V::add(acc[0][t], acc[s][t]);
      }
#pragma GCC unroll 32
      for (int t = 0; t < T; ++t) V::store(sums + t * V::lanes, acc[0][t]);
    }
  }
}

// Calls accumulate_groups<V, vectors>: a compile-time width for each width that a plan may choose.
template <class V, int T>
struct AccumulateWidth {
  static void run(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* values,
                  Start start, typename V::scalar* sums) {
    if (vectors != T) return AccumulateWidth<V, T - 1>::run(vectors, packed, block, values, start, sums);
    if constexpr (V::alignment > 1) {
      if (block.places) return accumulate_groups<V, T, ByPlace>(packed, block, values, start, sums);
    }
    return accumulate_groups<V, T, InOrder>(packed, block, values, start, sums);
  }
};

template <class V>
struct AccumulateWidth<V, 0> {
  static void run(int, const typename V::scalar*, const BlockRows&, const typename V::scalar*, Start, typename V::scalar*) {}
};

template <class V>
void accumulate(int vectors, const typename V::scalar* packed, const BlockRows& block, const typename V::scalar* values,
                Start start, typename V::scalar* sums) {
  AccumulateWidth<V, V::max_vectors>::run(vectors, packed, block, values, start, sums);
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
