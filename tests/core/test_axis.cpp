// Axis planning: every tap finds its source indices in the segments, and segments hold nothing that no tap reads.
#include <set>

#include "arrays.h"
#include "axis.h"
#include "check.h"

using mpl_sparse::Axis;
using mpl_sparse::kNoTap;
using mpl_sparse::plan_axis;

namespace {

Axis plan(const std::vector<int64_t>& offsets, int64_t step, int64_t length) {
  return plan_axis(offsets.data(), static_cast<int64_t>(offsets.size()), step, length);
}

// The source indices of each tap, and of each segment, for a tile that starts at output 0.
void check_axis(const std::vector<int64_t>& offsets, int64_t step, int64_t length) {
  const Axis axis = plan(offsets, step, length);
  CHECK_EQ(axis.taps.size(), offsets.size());
  std::set<int64_t> read, packed;
  int64_t longest = 1;
  for (size_t tap = 0; tap < offsets.size(); ++tap) {
    if (offsets[tap] == kNoTap) continue;
    const auto& segment = axis.segments.at(axis.taps[tap].segment);
    CHECK(axis.taps[tap].shift >= 0);
    CHECK(axis.taps[tap].shift + length <= segment.length);
    for (int64_t j = 0; j < length; ++j) {
      const int64_t source = j * step + offsets[tap];
      CHECK_EQ((segment.first + axis.taps[tap].shift + j) * step + segment.phase, source);
      read.insert(source);
    }
  }
  for (const auto& segment : axis.segments) {
    CHECK(segment.phase >= 0 && segment.phase < step);
    longest = std::max(longest, segment.length);
    for (int64_t e = 0; e < segment.length; ++e) CHECK(packed.insert((segment.first + e) * step + segment.phase).second);
  }
  CHECK(packed == read);
  CHECK_EQ(axis.longest, longest);
}

void examples() {
  const Axis plain = plan({-1, 0, 1}, 1, 8);  // a 3-wide kernel: one segment
  CHECK_EQ(plain.segments.size(), size_t{1});
  CHECK_EQ(plain.segments[0].first, -1);
  CHECK_EQ(plain.segments[0].length, 10);
  CHECK_EQ(plan({-1, 0, 1}, 2, 8).segments.size(), size_t{2});  // stride 2: odd and even columns
  CHECK_EQ(plan({0, 8, 16}, 1, 8).segments.size(), size_t{3});  // dilation as wide as the tile: nothing shared
  CHECK_EQ(plan({0, 7, 14}, 1, 8).segments.size(), size_t{1});  // one less: all shared
  CHECK_EQ(plan({0, 0, 0}, 1, 5).segments[0].length, 5);
  CHECK(plan({kNoTap, kNoTap}, 1, 4).segments.empty());
  CHECK_EQ(plan({kNoTap, kNoTap}, 1, 4).longest, 1);
  CHECK(plan({}, 3, 4).segments.empty());
}

}  // namespace

int main() {
  examples();
  Random random(1);
  for (int64_t taps = 0; taps <= 5; ++taps) {
    for (int64_t dilation = 1; dilation <= 6; ++dilation) {
      for (int64_t step = 1; step <= 4; ++step) {
        for (int64_t length = 1; length <= 5; ++length) {
          const int64_t pad = pick(random, 0, 9);
          std::vector<int64_t> offsets;
          for (int64_t k = 0; k < taps; ++k) offsets.push_back(chance(random, 0.2) ? kNoTap : k * dilation - pad);
          check_axis(offsets, step, length);
          std::reverse(offsets.begin(), offsets.end());  // as the gradient to the input has them
          check_axis(offsets, step, length);
        }
      }
    }
  }
  return checks::result();
}
