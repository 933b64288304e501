#include "axis.h"

#include <algorithm>

namespace mpl_sparse {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

}  // namespace

Axis plan_axis(const int64_t* offsets, int64_t count, int64_t step, int64_t length) {
  struct Reader {
    int64_t phase, shift, tap;
  };
  std::vector<Reader> readers;
  for (int64_t tap = 0; tap < count; ++tap) {
    if (offsets[tap] == kNoTap) continue;
    const int64_t shift = floor_div(offsets[tap], step);
    readers.push_back({offsets[tap] - shift * step, shift, tap});
  }
  std::sort(readers.begin(), readers.end(),
            [](const Reader& a, const Reader& b) { return a.phase != b.phase ? a.phase < b.phase : a.shift < b.shift; });

  Axis axis;
  axis.taps.resize(count);
  for (const Reader& reader : readers) {
    Segment* last = axis.segments.empty() ? nullptr : &axis.segments.back();
    const bool overlaps = last && last->phase == reader.phase && reader.shift < last->first + last->length;
    if (!overlaps) {
      axis.segments.push_back({reader.phase, reader.shift, 0});
      last = &axis.segments.back();
    }
    last->length = reader.shift - last->first + length;
    axis.longest = std::max(axis.longest, last->length);
    axis.taps[reader.tap] = {static_cast<int64_t>(axis.segments.size()) - 1, reader.shift - last->first};
  }
  return axis;
}

}  // namespace mpl_sparse
