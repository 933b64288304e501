#include "tile_plan.h"

#include <algorithm>
#include <limits>

namespace mpl_sparse {
namespace {

constexpr int64_t kBlockBytes = 24 * 1024;  // of a first-level cache of 32 KB, the rest being for sums, offsets and values
constexpr int64_t kMaxElements = 1 << 16;   // reach of a 16-bit offset

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Window make_window(const Correlation& c, const Extents& tile, int64_t row_begin, int64_t row_end, int64_t col_begin,
                   int64_t col_end) {
  Window window;
  window.tap_row_begin = row_begin;
  window.tap_row_end = row_end;
  window.tap_col_begin = col_begin;
  window.tap_col_end = col_end;
  window.rows = plan_axis(c.row_offsets.data() + row_begin, row_end - row_begin, c.row_step, tile.rows);
  window.cols = plan_axis(c.col_offsets.data() + col_begin, col_end - col_begin, c.col_step, tile.cols);
  window.row_stride = window.cols.longest;
  window.image_stride = window.rows.longest * window.row_stride;
  window.segment_stride = tile.images * window.image_stride;
  window.channel_stride = static_cast<int64_t>(window.rows.segments.size() * window.cols.segments.size()) * window.segment_stride;
  return window;
}

Window whole_kernel(const Correlation& c, const Extents& tile) {
  return make_window(c, tile, 0, static_cast<int64_t>(c.row_offsets.size()), 0, static_cast<int64_t>(c.col_offsets.size()));
}

struct Choice {
  Extents tile;
  double cost;
};

// The tile whose estimated cost is least. Per nonzero and tile: its vectors, and some more for the broadcast and the
// indices; per packed element a copy; per row and block, sums loaded and stored.
Extents choose_tile(const Correlation& c, int64_t nnz, const Extents& extents, const VectorUnit& unit) {
  const double channels = static_cast<double>(c.groups * c.channels_per_group);
  Choice best{{1, 1, std::min(extents.cols, unit.lanes)}, std::numeric_limits<double>::infinity()};
  for (int64_t vectors = 1; vectors <= unit.max_vectors; ++vectors) {
    const int64_t length = vectors * unit.lanes;
    Extents tile{1, 1, extents.cols};
    int64_t used = length;
    if (extents.cols > length) {
      const int64_t parts = ceil_div(extents.cols, length);
      tile.cols = ceil_div(ceil_div(extents.cols, parts), unit.lanes) * unit.lanes;
      used = tile.cols;
    } else {
      const int64_t row_stride = whole_kernel(c, tile).row_stride;
      tile.rows = std::min(extents.rows, (length - tile.cols) / row_stride + 1);
      tile.rows = ceil_div(extents.rows, ceil_div(extents.rows, tile.rows));
      used = (tile.rows - 1) * row_stride + tile.cols;
      if (tile.rows == extents.rows && extents.images > 1) {
        const int64_t image_stride = whole_kernel(c, tile).image_stride;
        tile.images = std::min(extents.images, (length - used) / image_stride + 1);
        tile.images = ceil_div(extents.images, ceil_div(extents.images, tile.images));
        used += (tile.images - 1) * image_stride;
      }
    }
    if (ceil_div(used, unit.lanes) != vectors) continue;  // a narrower tile holds the same outputs
    const Window window = whole_kernel(c, tile);
    if (window.channel_stride > kMaxElements) continue;
    const double tiles = static_cast<double>(ceil_div(extents.images, tile.images) * ceil_div(extents.rows, tile.rows) *
                                             ceil_div(extents.cols, tile.cols));
    const double blocks = std::max(1.0, channels * window.channel_stride * unit.element_bytes / kBlockBytes);
    const double rows = static_cast<double>(c.rows_per_group * c.groups);
    const double cost = tiles * (nnz * (vectors + unit.nonzero_cost) + channels * window.channel_stride * 1.5 / unit.lanes +
                                 rows * (c.groups == 1 ? blocks : 1.0) * (2.0 * vectors + 4.0));
    if (cost < best.cost) best = {tile, cost};
  }
  return best.tile;
}

// The whole kernel where 16-bit offsets reach it; else as many kernel rows at a time as they reach, or part of one row.
std::vector<Window> choose_windows(const Correlation& c, const Extents& tile) {
  std::vector<Window> windows;
  const int64_t kernel_rows = static_cast<int64_t>(c.row_offsets.size()),
                kernel_cols = static_cast<int64_t>(c.col_offsets.size());
  for (int64_t row = 0; row < kernel_rows;) {
    int64_t rows = kernel_rows - row, cols = kernel_cols;
    Window window = make_window(c, tile, row, row + rows, 0, cols);
    while (window.channel_stride > kMaxElements && rows > 1) {
      rows = ceil_div(rows, 2);
      window = make_window(c, tile, row, row + rows, 0, cols);
    }
    while (window.channel_stride > kMaxElements) {
      cols = ceil_div(cols, 2);
      window = make_window(c, tile, row, row + rows, 0, cols);
    }
    windows.push_back(std::move(window));
    for (int64_t col = cols; col < kernel_cols; col += cols) {
      windows.push_back(make_window(c, tile, row, row + rows, col, std::min(kernel_cols, col + cols)));
    }
    row += rows;
  }
  return windows;
}

class Builder {
 public:
  Builder(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, TilePlan& plan)
      : c_(correlation), row_ptr_(row_ptr), keys_(keys), plan_(plan), cursor_(row_ptr, row_ptr + correlation.rows()) {
    for (const Window& window : plan.windows) tap_offsets_.push_back(offsets_of_taps(window));
  }

  void build(int64_t element_bytes) {
    plan_.offsets.resize(row_ptr_[c_.rows()]);
    mark_used_channels();
    if (plan_.windows.size() > 1) {
      for (int64_t group = 0; group < c_.groups; ++group) add_channel_by_channel(group);
      return;
    }
    const int64_t stride = std::max<int64_t>(1, plan_.windows[0].channel_stride);
    const int64_t capacity = std::max<int64_t>(1, std::min(kMaxElements, kBlockBytes / element_bytes) / stride);
    for (int64_t group = 0; group < c_.groups;) {
      int64_t count = used_in(group), last = group + 1;
      if (count <= capacity) {
        // Groups small enough share a block: depthwise convolution has as few blocks as any other.
        while (last < c_.groups && count + used_in(last) <= capacity) count += used_in(last++);
        add_block(0, group, last, kEverything, first_channel(group), first_channel(last));
      } else {
        const int64_t share = ceil_div(count, ceil_div(count, capacity));
        int64_t channel = first_channel(group);
        while (channel < first_channel(last)) {
          int64_t end = channel;
          for (int64_t taken = 0; end < first_channel(last) && (taken < share || !used_[end]); ++end) taken += used_[end];
          add_block(0, group, last, (end - first_channel(group)) * c_.taps(), channel, end);
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
    for (int64_t channel = first_channel(group); channel < first_channel(group + 1); ++channel) {
      if (!used_[channel]) continue;
      for (size_t w = 0; w < plan_.windows.size(); ++w) {
        const Window& window = plan_.windows[w];
        const int64_t kernel_cols = static_cast<int64_t>(c_.col_offsets.size());
        // The window's taps are consecutive keys: whole kernel rows, or part of one.
        const int64_t end = (window.tap_row_end - 1) * kernel_cols + window.tap_col_end;
        add_block(static_cast<int64_t>(w), group, group + 1, (channel - first_channel(group)) * c_.taps() + end, channel,
                  channel + 1);
      }
    }
  }

  // Takes each row's next nonzeros, up to the one whose key is key_end.
  void add_block(int64_t window_index, int64_t group_begin, int64_t group_end, int64_t key_end, int64_t channel_begin,
                 int64_t channel_end) {
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
    if (block.channel_end == block.channel_begin) return;
    block.slice = static_cast<int64_t>(plan_.begin.size());
    const std::vector<int64_t>& tap_offset = tap_offsets_[window_index];
    const uint32_t taps = static_cast<uint32_t>(c_.taps());
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      const int64_t* slot = slot_.data() + first_channel(row / c_.rows_per_group);
      int32_t k = cursor_[row];
      plan_.begin.push_back(static_cast<uint32_t>(k));
      for (; k < row_ptr_[row + 1] && keys_[k] < key_end; ++k) {
        const uint32_t key = static_cast<uint32_t>(keys_[k]);
        plan_.offsets[k] = static_cast<uint16_t>(slot[key / taps] * window.channel_stride + tap_offset[key % taps]);
      }
      plan_.end.push_back(static_cast<uint32_t>(k));
      cursor_[row] = k;
    }
    plan_.blocks.push_back(block);
    plan_.packed_elements = std::max(plan_.packed_elements, (block.channel_end - block.channel_begin) * window.channel_stride);
  }

  std::vector<int64_t> offsets_of_taps(const Window& window) const {
    const int64_t kernel_cols = static_cast<int64_t>(c_.col_offsets.size());
    const int64_t row_segments = static_cast<int64_t>(window.rows.segments.size());
    std::vector<int64_t> offsets(c_.taps());
    for (int64_t kh = window.tap_row_begin; kh < window.tap_row_end; ++kh) {
      const AxisTap& row = window.rows.taps[kh - window.tap_row_begin];
      for (int64_t kw = window.tap_col_begin; kw < window.tap_col_end; ++kw) {
        const AxisTap& col = window.cols.taps[kw - window.tap_col_begin];
        offsets[kh * kernel_cols + kw] =
            (col.segment * row_segments + row.segment) * window.segment_stride + row.shift * window.row_stride + col.shift;
      }
    }
    return offsets;
  }

  const Correlation& c_;
  const int32_t* row_ptr_;
  const int32_t* keys_;
  TilePlan& plan_;
  std::vector<int32_t> cursor_;                    // each row's first nonzero that no block has taken yet
  std::vector<char> used_;                         // by channel of all groups: whether it has a nonzero
  std::vector<int64_t> slot_;                      // by channel of all groups: its place in its block
  std::vector<std::vector<int64_t>> tap_offsets_;  // by window and tap: from a packed channel's start
};

}  // namespace

TilePlan build_tile_plan(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, const Extents& extents,
                         const VectorUnit& unit) {
  TilePlan plan;
  plan.rows = correlation.rows();
  plan.lanes = unit.lanes;
  plan.row_step = correlation.row_step;
  plan.col_step = correlation.col_step;
  plan.tile = choose_tile(correlation, row_ptr[plan.rows], extents, unit);
  plan.windows = choose_windows(correlation, plan.tile);
  // With several windows a tile is one row of one image, and these strides are not used.
  plan.tile_row_stride = plan.windows[0].row_stride;
  plan.tile_image_stride = plan.windows[0].image_stride;
  Builder(correlation, row_ptr, keys, plan).build(unit.element_bytes);
  return plan;
}

}  // namespace mpl_sparse
