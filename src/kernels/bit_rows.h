// Walking rows whose columns are bits, a vector of columns at a time.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// The bits of `lanes` columns from a multiple of `lanes` on.
template <int lanes>
inline uint32_t bits_at(const uint8_t* row, int64_t col) {
  if constexpr (lanes == 16) {
    uint16_t bits;
    __builtin_memcpy(&bits, row + col / 8, sizeof bits);
    return bits;
  } else if constexpr (lanes == 8) {
    return row[col / 8];
  } else {
    return row[col / 8] >> (col % 8) & ((1u << lanes) - 1);
  }
}

// Several rows are walked together: each waits for its own sum and its own place in the values.
constexpr int kRowsTogether = 4;

// Calls walk(number of rows as a constant, first row): kRowsTogether rows at once while there are as many.
template <int count>
struct Together {
  static constexpr int rows = count;
};
template <class Walk>
inline void each_rows(int64_t begin, int64_t end, Walk walk) {
  int64_t row = begin;
  for (; row + kRowsTogether <= end; row += kRowsTogether) walk(Together<kRowsTogether>{}, row);
  for (; row < end; ++row) walk(Together<1>{}, row);
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
