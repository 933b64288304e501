#include "tile_plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace mpl_sparse {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// The zeros at both ends of an axis whose tile has all its outputs: the last ones of a packed row can be the next row's first,
// and so with the rows of images. Each output keeps a position of its own.
int64_t shared_zeros(const Axis& axis, int64_t outputs, int64_t step, int64_t source_size) {
  int64_t shared = axis.segments.empty() ? 0 : axis.longest - outputs;
  for (const Segment& segment : axis.segments) {
    const int64_t first = segment.first * step + segment.phase;
    const int64_t leading = first < 0 ? ceil_div(-first, step) : 0;
    const int64_t inside = first < source_size ? ceil_div(source_size - first, step) : 0;
    shared = std::min({shared, leading, axis.longest - std::min(inside, axis.longest)});
  }
  return shared;
}

Window make_window(const Correlation& c, const TileLayout& layout, int64_t row_begin, int64_t row_end, int64_t col_begin,
                   int64_t col_end) {
  const Extents& tile = layout.tile;
  Window window;
  window.tap_row_begin = row_begin;
  window.tap_row_end = row_end;
  window.tap_col_begin = col_begin;
  window.tap_col_end = col_end;
  window.rows = plan_axis(c.row_offsets.data() + row_begin, row_end - row_begin, c.row_step, tile.rows);
  window.cols = plan_axis(c.col_offsets.data() + col_begin, col_end - col_begin, c.col_step, tile.cols);
  const int64_t shared_cols =
      tile.rows > 1 && layout.whole_rows ? shared_zeros(window.cols, tile.cols, c.col_step, c.source_cols) : 0;
  const int64_t shared_rows = tile.images > 1 ? shared_zeros(window.rows, tile.rows, c.row_step, c.source_rows) : 0;
  window.row_stride = round_up(window.cols.longest - shared_cols, layout.alignment);
  window.image_stride = (window.rows.longest - shared_rows) * window.row_stride;
  window.segment_stride = tile.images * window.image_stride;
  window.channel_stride = static_cast<int64_t>(window.rows.segments.size() * window.cols.segments.size()) * window.segment_stride;
  return window;
}

Window whole_kernel(const Correlation& c, const TileLayout& layout) {
  return make_window(c, layout, 0, static_cast<int64_t>(c.row_offsets.size()), 0, static_cast<int64_t>(c.col_offsets.size()));
}

// What is left of the taps' column offsets when the multiples of the alignment are taken out.
void add_shifts(const Window& window, int64_t alignment, std::vector<int64_t>& shifts) {
  for (const AxisTap& tap : window.cols.taps) shifts.push_back(tap.shift % alignment);
  std::sort(shifts.begin(), shifts.end());
  shifts.erase(std::unique(shifts.begin(), shifts.end()), shifts.end());
}

// A rough model of a core, in turns of its multiply-add unit, from measurements of the micro-kernel.
constexpr double kGroup = 8;           // the loop's end, mostly a branch that is predicted wrongly
constexpr double kGroupVector = 1.75;  // a sum read and written back
constexpr double kPackedVector = 1.5;  // a vector copied
constexpr double kPackedRow = 6;       // a row of a channel copied
constexpr double kDot = 6;             // a dot product's own sum, of eight formed together
constexpr double kDotsGroup = 24;      // the dot products of a group that are fewer than eight
constexpr double kStoredRow = 6;       // a row of outputs written
constexpr int64_t kMostBlockBytes[] = {24 * 1024, 48 * 1024, 96 * 1024};  // first-level cache, or some of the second
constexpr int64_t kMostColumnParts = 4;         // of a row of outputs, for tiles of several rows of such a part
constexpr size_t kMostTuned = 4;                // plans that are tried in turn
constexpr double kMostTunedCost = 1.35;         // how much dearer than the first the model may take them for
constexpr double kFarther[] = {0.0, 0.1, 0.4};  // times the vector unit's far_cost: of a vector of such a block, over a near one

// The tile of at most `vectors` vectors that holds the most outputs, with `cols` columns or as many as fit.
TileLayout widest_layout(const Correlation& c, const Extents& extents, const VectorUnit& unit, int64_t alignment, int64_t vectors,
                         int64_t cols) {
  TileLayout layout{{1, 1, cols}, cols == extents.cols, alignment};
  Extents& tile = layout.tile;
  std::vector<int64_t> shifts;
  add_shifts(whole_kernel(c, layout), alignment, shifts);
  const int64_t length = vectors * unit.lanes - shifts.back();
  if (cols > length) {
    const int64_t share = ceil_div(cols, ceil_div(cols, std::max<int64_t>(1, length)));
    tile.cols = std::max<int64_t>(1, std::min(length, round_up(share, unit.lanes)));
    return layout;
  }
  tile.rows = 2;  // the stride of more than one row
  const int64_t row_stride = whole_kernel(c, layout).row_stride;
  tile.rows = std::min(extents.rows, (length - tile.cols) / row_stride + 1);
  tile.rows = ceil_div(extents.rows, ceil_div(extents.rows, tile.rows));
  if (layout.whole_rows && tile.rows == extents.rows && extents.images > 1) {
    tile.images = 2;
    const int64_t image_stride = whole_kernel(c, layout).image_stride, used = (tile.rows - 1) * row_stride + tile.cols;
    tile.images = std::min(extents.images, (length - used) / image_stride + 1);
    tile.images = ceil_div(extents.images, ceil_div(extents.images, tile.images));
  }
  return layout;
}

// Adds what plans with this layout are estimated to cost, where they can be and are not there yet.
void add_choices(const Correlation& c, int64_t nnz, const Extents& extents, const VectorUnit& unit, Use use,
                 const TileLayout& layout, std::vector<TileChoice>& choices) {
  if (std::any_of(choices.begin(), choices.end(), [&](const TileChoice& choice) { return choice.layout == layout; })) return;
  const Extents& tile = layout.tile;
  const Window window = whole_kernel(c, layout);
  if (window.channel_stride > unit.reach) return;
  std::vector<int64_t> shifts;
  add_shifts(window, layout.alignment, shifts);
  const int64_t last = (tile.images - 1) * window.image_stride + (tile.rows - 1) * window.row_stride + tile.cols + shifts.back();
  const int64_t vectors = ceil_div(last, unit.lanes);

  const double tiles = static_cast<double>(ceil_div(extents.images, tile.images) * ceil_div(extents.rows, tile.rows) *
                                           ceil_div(extents.cols, tile.cols));
  const double channels = static_cast<double>(c.groups * c.channels_per_group), rows = static_cast<double>(c.rows());
  const double segments = static_cast<double>(window.rows.segments.size() * window.cols.segments.size());
  const double packed_rows = channels * segments * tile.images * window.rows.longest;
  const double packing = packed_rows * kPackedRow + channels * window.channel_stride / unit.lanes * kPackedVector;
  const double row_vectors = static_cast<double>(ceil_div(tile.cols, unit.lanes));
  const double storing = rows * tile.images * tile.rows * (row_vectors * (shifts.size() + 1.0) + kStoredRow);
  const double load = unit.alignment > 1 && layout.alignment == 1 && c.taps() > 1 ? unit.split_cost : 1.0;
  for (size_t i = 0; i < std::size(kMostBlockBytes); ++i) {
    const double bytes = channels / c.groups * window.channel_stride * unit.element_bytes;
    const double blocks = std::max(1.0, std::ceil(bytes / kMostBlockBytes[i]));
    const double groups = std::min(rows * shifts.size() * blocks, static_cast<double>(nnz));
    const double penalty = bytes * c.groups > kMostBlockBytes[0] ? 1.0 + unit.far_cost * kFarther[i] : 1.0;
    const double one_nonzero = use == Use::sample ? kDot + vectors / 8.0 : unit.nonzero_cost;
    const double one_group = use == Use::sample ? kDotsGroup + vectors : kGroup + vectors * kGroupVector;
    const double cost = tiles * (nnz * (vectors * load * penalty + one_nonzero) + groups * one_group + packing + storing);
    choices.push_back({layout, vectors, kMostBlockBytes[i], cost});
    if (blocks == 1.0) break;  // a larger block changes nothing
  }
}

// The whole kernel where 16-bit offsets reach it; else as many kernel rows at a time as they reach, or part of one row.
std::vector<Window> choose_windows(const Correlation& c, const TileLayout& layout, int64_t reach) {
  std::vector<Window> windows;
  const int64_t kernel_rows = static_cast<int64_t>(c.row_offsets.size()),
                kernel_cols = static_cast<int64_t>(c.col_offsets.size());
  for (int64_t row = 0; row < kernel_rows;) {
    int64_t rows = kernel_rows - row, cols = kernel_cols;
    Window window = make_window(c, layout, row, row + rows, 0, cols);
    while (window.channel_stride > reach && rows > 1) {
      rows = ceil_div(rows, 2);
      window = make_window(c, layout, row, row + rows, 0, cols);
    }
    while (window.channel_stride > reach) {
      cols = ceil_div(cols, 2);
      window = make_window(c, layout, row, row + rows, 0, cols);
    }
    windows.push_back(std::move(window));
    for (int64_t col = cols; col < kernel_cols; col += cols) {
      windows.push_back(make_window(c, layout, row, row + rows, col, std::min(kernel_cols, col + cols)));
    }
    row += rows;
  }
  return windows;
}

class Builder {
 public:
  Builder(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, int64_t alignment, TilePlan& plan)
      : c_(correlation), row_ptr_(row_ptr), keys_(keys), plan_(plan), cursor_(row_ptr, row_ptr + correlation.rows()) {
    for (const Window& window : plan.windows) add_shifts(window, alignment, plan_.shifts);
    for (const Window& window : plan.windows) taps_.push_back(packed_taps(window, alignment));
  }

  void build(int64_t block_elements) {
    plan_.offsets.resize(row_ptr_[c_.rows()]);
    if (plan_.num_shifts() > 1) plan_.places.resize(plan_.offsets.size());
    mark_used_channels();
    if (plan_.windows.size() > 1) {
      for (int64_t group = 0; group < c_.groups; ++group) add_channel_by_channel(group);
      return;
    }
    const int64_t stride = std::max<int64_t>(1, plan_.windows[0].channel_stride);
    const int64_t capacity = std::max<int64_t>(1, block_elements / stride);
    for (int64_t group = 0; group < c_.groups;) {
      int64_t count = used_in(group), last = group + 1;
      if (count <= capacity) {
        // Groups small enough share a block: depthwise convolution has as few blocks as any other.
        while (last < c_.groups && count + used_in(last) <= capacity) count += used_in(last++);
        add_block(0, group, last, kEverything, first_channel(group), first_channel(last), Start::zero);
      } else {
        const int64_t share = ceil_div(count, ceil_div(count, capacity));
        Start start = Start::zero;
        int64_t channel = first_channel(group);
        while (channel < first_channel(last)) {
          int64_t end = channel;
          for (int64_t taken = 0; end < first_channel(last) && (taken < share || !used_[end]); ++end) taken += used_[end];
          add_block(0, group, last, (end - first_channel(group)) * c_.taps(), channel, end, start);
          start = Start::sums;
          channel = end;
        }
      }
      group = last;
    }
  }

 private:
  static constexpr int64_t kEverything = std::numeric_limits<int64_t>::max();

  int64_t first_channel(int64_t group) const { return group * c_.channels_per_group; }

  void mark_used_channels() {
    used_.assign(c_.groups * c_.channels_per_group, 0);
    slot_.resize(used_.size());
    const uint32_t taps = static_cast<uint32_t>(c_.taps());
    for (int64_t row = 0; row < c_.rows(); ++row) {
      char* used = used_.data() + first_channel(row / c_.rows_per_group);
      for (int32_t k = row_ptr_[row]; k < row_ptr_[row + 1]; ++k) used[static_cast<uint32_t>(keys_[k]) / taps] = 1;
    }
  }

  int64_t used_in(int64_t group) const {
    return std::count(used_.begin() + first_channel(group), used_.begin() + first_channel(group + 1), 1);
  }

  void add_channel_by_channel(int64_t group) {
    Start start = Start::zero;
    for (int64_t channel = first_channel(group); channel < first_channel(group + 1); ++channel) {
      if (!used_[channel]) continue;
      for (size_t w = 0; w < plan_.windows.size(); ++w) {
        const Window& window = plan_.windows[w];
        const int64_t kernel_cols = static_cast<int64_t>(c_.col_offsets.size());
        // The window's taps are consecutive keys: whole kernel rows, or part of one.
        const int64_t end = (window.tap_row_end - 1) * kernel_cols + window.tap_col_end;
        add_block(static_cast<int64_t>(w), group, group + 1, (channel - first_channel(group)) * c_.taps() + end, channel,
                  channel + 1, start);
        start = Start::sums;
      }
    }
    if (start == Start::zero) add_block(0, group, group + 1, 0, first_channel(group), first_channel(group), start);
  }

  // Takes each row's next nonzeros, up to the one whose key is key_end.
  void add_block(int64_t window_index, int64_t group_begin, int64_t group_end, int64_t key_end, int64_t channel_begin,
                 int64_t channel_end, Start start) {
    const Window& window = plan_.windows[window_index];
    Block block;
    block.window = window_index;
    block.row_begin = group_begin * c_.rows_per_group;
    block.row_end = group_end * c_.rows_per_group;
    block.channel_begin = static_cast<int64_t>(plan_.channels.size());
    for (int64_t channel = channel_begin; channel < channel_end; ++channel) {
      if (!used_[channel]) continue;
      slot_[channel] = static_cast<int64_t>(plan_.channels.size()) - block.channel_begin;
      plan_.channels.push_back(static_cast<int32_t>(channel));
    }
    block.channel_end = static_cast<int64_t>(plan_.channels.size());
    block.slice = static_cast<int64_t>(plan_.bounds.size());
    block.start = start;
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      const int32_t first = cursor_[row];
      int32_t& last = cursor_[row];
      while (last < row_ptr_[row + 1] && keys_[last] < key_end) ++last;
      add_entries(window, taps_[window_index].data(), slot_.data() + first_channel(row / c_.rows_per_group), first, last);
    }
    plan_.blocks.push_back(block);
    plan_.packed_elements = std::max(plan_.packed_elements, (block.channel_end - block.channel_begin) * window.channel_stride);
  }

  // Where a tap finds its first element in a packed channel, and which group it belongs to.
  struct PackedTap {
    int64_t offset;
    int64_t shift;  // into TilePlan::shifts
  };

  // The entries of a row's nonzeros first .. last, grouped by shift and otherwise in order.
  void add_entries(const Window& window, const PackedTap* tap_of, const int64_t* slot, int32_t first, int32_t last) {
    const uint32_t taps = static_cast<uint32_t>(c_.taps());
    const auto offset = [&](uint32_t key) {
      return static_cast<uint16_t>(slot[key / taps] * window.channel_stride + tap_of[key % taps].offset);
    };
    if (plan_.num_shifts() == 1) {
      for (int32_t k = first; k < last; ++k) plan_.offsets[k] = offset(static_cast<uint32_t>(keys_[k]));
      plan_.bounds.push_back(static_cast<uint32_t>(first));
      plan_.bounds.push_back(static_cast<uint32_t>(last));
      return;
    }
    next_.assign(plan_.shifts.size() + 1, 0);
    for (int32_t k = first; k < last; ++k) ++next_[tap_of[static_cast<uint32_t>(keys_[k]) % taps].shift + 1];
    next_[0] = static_cast<uint32_t>(first);
    for (size_t s = 1; s < next_.size(); ++s) next_[s] += next_[s - 1];
    plan_.bounds.insert(plan_.bounds.end(), next_.begin(), next_.end());
    for (int32_t k = first; k < last; ++k) {
      const uint32_t key = static_cast<uint32_t>(keys_[k]);
      const uint32_t entry = next_[tap_of[key % taps].shift]++;
      plan_.offsets[entry] = offset(key);
      plan_.places[entry] = static_cast<uint16_t>(k - first);
    }
  }

  std::vector<PackedTap> packed_taps(const Window& window, int64_t alignment) const {
    const int64_t kernel_cols = static_cast<int64_t>(c_.col_offsets.size());
    const int64_t row_segments = static_cast<int64_t>(window.rows.segments.size());
    std::vector<PackedTap> taps(c_.taps());
    for (int64_t kh = window.tap_row_begin; kh < window.tap_row_end; ++kh) {
      const AxisTap& row = window.rows.taps[kh - window.tap_row_begin];
      for (int64_t kw = window.tap_col_begin; kw < window.tap_col_end; ++kw) {
        const AxisTap& col = window.cols.taps[kw - window.tap_col_begin];
        const int64_t shift = col.shift % alignment;
        taps[kh * kernel_cols + kw] = {(col.segment * row_segments + row.segment) * window.segment_stride +
                                           row.shift * window.row_stride + col.shift - shift,
                                       std::lower_bound(plan_.shifts.begin(), plan_.shifts.end(), shift) - plan_.shifts.begin()};
      }
    }
    return taps;
  }

  const Correlation& c_;
  const int32_t* row_ptr_;
  const int32_t* keys_;
  TilePlan& plan_;
  std::vector<int32_t> cursor_;               // each row's first nonzero that no block has taken yet
  std::vector<char> used_;                    // by channel of all groups: whether it has a nonzero
  std::vector<int64_t> slot_;                 // by channel of all groups: its place in its block
  std::vector<std::vector<PackedTap>> taps_;  // by window and tap
  std::vector<uint32_t> next_;                // scratch of add_entries
};

}  // namespace

int64_t widest_tile(const VectorUnit& unit, Use use) { return use == Use::sample ? kMostSampleVectors : unit.max_vectors; }

std::vector<TileChoice> tile_choices(const Correlation& correlation, int64_t nnz, const Extents& extents, const VectorUnit& unit,
                                     Use use) {
  const int64_t widest = widest_tile(unit, use);
  // Where few whole rows fit, parts of more rows share the source rows that they have in common.
  const bool wide = unit.alignment == 1 || 3 * extents.cols > widest * unit.lanes;
  const int64_t most_parts = wide && extents.rows > 1 && correlation.taps() > 1 ? kMostColumnParts : 1;
  const int64_t step = unit.alignment == 1 ? unit.lanes : 1;  // of a part's columns: aligned strides are rounded up anyway
  std::vector<TileChoice> choices;
  for (const int64_t alignment : {unit.alignment, int64_t{1}}) {
    for (int64_t vectors = 1; vectors <= widest; vectors += 1 + vectors / 16) {
      for (int64_t parts = 1; parts <= most_parts; ++parts) {
        const int64_t cols = std::min(extents.cols, round_up(ceil_div(extents.cols, parts), parts == 1 ? 1 : step));
        add_choices(correlation, nnz, extents, unit, use, widest_layout(correlation, extents, unit, alignment, vectors, cols),
                    choices);
      }
    }
    if (unit.alignment == 1) break;
  }
  if (choices.empty()) {  // a single channel's tile is too large: the kernel is cut into windows
    const int64_t cols = std::min(extents.cols, unit.lanes);
    choices.push_back({{{1, 1, cols}, cols == extents.cols, 1}, 1, kMostBlockBytes[0], 0.0});
  }
  std::stable_sort(choices.begin(), choices.end(), [](const TileChoice& a, const TileChoice& b) { return a.cost < b.cost; });
  return choices;
}

void keep_alike(std::vector<TileChoice>& choices) {
  const TileChoice first = choices.front();
  const auto differs = [&](const TileChoice& choice) {
    return choice.layout.alignment != first.layout.alignment || choice.vectors < kInOrderVectors ||
           choice.cost > kMostTunedCost * first.cost;
  };
  choices.erase(std::remove_if(choices.begin() + 1, choices.end(), differs), choices.end());
  if (first.vectors < kInOrderVectors) choices.resize(1, first);
  choices.resize(std::min(choices.size(), kMostTuned), first);
}

TilePlan build_tile_plan(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, const VectorUnit& unit,
                         const TileChoice& choice) {
  TilePlan plan;
  plan.vectors = choice.vectors;
  plan.rows = correlation.rows();
  plan.lanes = unit.lanes;
  plan.row_step = correlation.row_step;
  plan.col_step = correlation.col_step;
  plan.tile = choice.layout.tile;
  plan.windows = choose_windows(correlation, choice.layout, unit.reach);
  // With several windows a tile is one row of one image, and these strides are not used.
  plan.tile_row_stride = plan.windows[0].row_stride;
  plan.tile_image_stride = plan.windows[0].image_stride;
  Builder(correlation, row_ptr, keys, choice.layout.alignment, plan)
      .build(std::min(unit.reach, choice.block_bytes / unit.element_bytes));
  return plan;
}

}  // namespace mpl_sparse
