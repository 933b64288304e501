// What the loops over a block's rows ask for ahead of time.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

constexpr int64_t kRowsAhead = 4;

// Asks for what a later row of the block will read: a row's entries in a block are few and far from the last row's, which no
// hardware prefetcher foresees. Inlined always: GCC 12 takes a call of such a function for one without effect.
template <class Scalar>
[[gnu::always_inline]] inline void prefetch_row(const BlockRows& block, const uint32_t* bound, const Scalar* values) {
  constexpr int64_t values_a_line = 64 / sizeof(Scalar), offsets_a_line = 64 / sizeof(uint16_t);
  const uint32_t first = bound[0], end = bound[block.num_shifts];
  if (first == bound[-1]) return;  // where the row before it ends
  const Scalar* value = values + first;
  const uint16_t* offset = block.offsets + first;
  const uint16_t* place = block.places ? block.places + first : nullptr;
  do {
#pragma GCC unroll 4
    for (int64_t i = 0; i < offsets_a_line; i += values_a_line) __builtin_prefetch(value + i);
    __builtin_prefetch(offset);
    if (block.places) __builtin_prefetch(place), place += offsets_a_line;
    value += offsets_a_line, offset += offsets_a_line;
  } while (value < values + end);
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
