// Tables for instruction sets that move elements by byte or word numbers: where the lanes of a row of bits come from.
#pragma once

#include <cstdint>

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// Row `bits` has `lanes` elements of `units` units each. What stands for no lane is `none`; what does has `mark` added.
template <int lanes, int units>
struct alignas(64) PlaceTable {
  uint8_t rows[1 << lanes][lanes * units];
};

// For the lane of each set bit the next element, one after the other: spreads stored elements to their lanes.
template <int lanes, int units>
constexpr PlaceTable<lanes, units> expand_table(int mark, int none) {
  PlaceTable<lanes, units> table{};
  for (int bits = 0; bits < 1 << lanes; ++bits) {
    for (int lane = 0, next = 0; lane < lanes; ++lane) {
      const bool kept = bits >> lane & 1;
      for (int unit = 0; unit < units; ++unit) {
        table.rows[bits][lane * units + unit] = static_cast<uint8_t>(kept ? next * units + unit + mark : none);
      }
      next += kept;
    }
  }
  return table;
}

// The lanes of the set bits, one after the other: the way back.
template <int lanes, int units>
constexpr PlaceTable<lanes, units> compress_table() {
  PlaceTable<lanes, units> table{};
  for (int bits = 0; bits < 1 << lanes; ++bits) {
    for (int lane = 0, next = 0; lane < lanes; ++lane) {
      if (!(bits >> lane & 1)) continue;
      for (int unit = 0; unit < units; ++unit) {
        table.rows[bits][next * units + unit] = static_cast<uint8_t>(lane * units + unit);
      }
      ++next;
    }
  }
  return table;
}

// The number of set bits among four, where there is no instruction for it.
inline int count_of_four(uint32_t bits) {
  static constexpr uint8_t counts[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};
  return counts[bits];
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
