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
  constexpr uint32_t line = 64 / sizeof(Scalar);
  const uint32_t first = bound[0], end = bound[block.num_shifts];
  if (first == bound[-1]) return;  // where the row before it ends
  for (uint32_t k = first; k < end; k += line) {
    __builtin_prefetch(values + k);
    __builtin_prefetch(block.offsets + k);
    if (block.places) __builtin_prefetch(block.places + k);
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
