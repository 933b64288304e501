// One spatial axis of a packed tile: which source indices lie in it, and where each kernel tap finds its own.
//
// Tap k of output j reads source index j * step + offsets[k]. With offset = shift * step + phase, taps of one phase read the same
// source indices at different shifts, so they share a segment of consecutive packed elements as long as what they read overlaps.
// Stride (step > 1) and dilation (offsets far apart) thereby become segments, and nothing is packed that no tap reads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/interface.h"

namespace mpl_sparse {

constexpr int64_t kNoTap = INT64_MIN;  // the offset of a tap that has no part in a plan

struct AxisTap {
  int64_t segment = 0;
  int64_t shift = 0;  // elements from the segment's start
};

struct Axis {
  std::vector<Segment> segments;
  std::vector<AxisTap> taps;
  int64_t longest = 1;  // elements of the longest segment
};

// offsets[0 .. count): the taps; length: the outputs of a tile along this axis, at least 1.
Axis plan_axis(const int64_t* offsets, int64_t count, int64_t step, int64_t length);

}  // namespace mpl_sparse
