#include "conv_plan.h"

#include <algorithm>

#include "mpl_sparse/tuning.h"

namespace mpl_sparse {
namespace {

enum class Direction : int64_t { forward, grad_input, grad_weight };

// A plan depends on the number of images only as far as one tile can hold them.
int64_t images_that_matter(const Extents& extents, int64_t widest) {
  const int64_t positions = std::max<int64_t>(1, extents.rows * extents.cols);
  return std::min(extents.images, std::max<int64_t>(1, widest / positions));
}

// A single row of outputs, as a linear layer's batch is, is served by the plan for as many columns as fill whole vectors.
int64_t columns_that_matter(int64_t cols, int64_t widest, const VectorUnit& unit) {
  const int64_t tiles = (cols + widest - 1) / widest;
  const int64_t share = (cols + tiles - 1) / tiles;
  return (share + unit.lanes - 1) / unit.lanes * unit.lanes;
}

bool is_matmul(const Conv2dGeometry& g) {
  return g.kernel_height == 1 && g.kernel_width == 1 && g.stride_height == 1 && g.stride_width == 1 && g.pad_top == 0 &&
         g.pad_bottom == 0 && g.pad_left == 0 && g.pad_right == 0 && g.in_height == 1;
}

PlanCache::Key make_key(Direction direction, const Conv2dGeometry& g, const Extents& extents, const VectorUnit& unit) {
  return {static_cast<int64_t>(direction),
          unit.lanes,
          unit.max_vectors,
          unit.element_bytes,
          extents.images,
          g.in_channels,
          is_matmul(g) ? 1 : g.in_height,
          is_matmul(g) ? extents.cols : g.in_width,
          g.out_channels,
          g.kernel_height,
          g.kernel_width,
          g.stride_height,
          g.stride_width,
          g.pad_top,
          g.pad_bottom,
          g.pad_left,
          g.pad_right,
          g.dilation_height,
          g.dilation_width,
          g.groups};
}

std::vector<int64_t> tap_offsets(int64_t taps, int64_t dilation, int64_t pad) {
  std::vector<int64_t> offsets(taps);
  for (int64_t k = 0; k < taps; ++k) offsets[k] = k * dilation - pad;
  return offsets;
}

// Along one axis of the gradient to the input, phase s holds the inputs s, s + stride, ... Those meet the taps k with
// (k * dilation - pad) % stride == s, and input number j of them reads output j + offset of tap k. A stride longer than the input
// has no more phases than there are inputs.
struct Phase {
  Lattice lattice;
  std::vector<int64_t> offsets;
};

// The first input that a tap may reach: its phase, if there is such an input.
int64_t phase_of(int64_t tap, int64_t stride, int64_t dilation, int64_t pad) {
  const int64_t rest = (tap * dilation - pad) % stride;
  return rest < 0 ? rest + stride : rest;
}

std::vector<Phase> phases(int64_t extent, int64_t taps, int64_t stride, int64_t dilation, int64_t pad) {
  std::vector<Phase> all(std::min(stride, extent));
  for (int64_t s = 0; s < static_cast<int64_t>(all.size()); ++s) {
    all[s].lattice = {s, stride, (extent - s + stride - 1) / stride};
    all[s].offsets.assign(taps, kNoTap);
    for (int64_t k = 0; k < taps; ++k) {
      if (phase_of(k, stride, dilation, pad) == s) all[s].offsets[k] = (s + pad - k * dilation) / stride;
    }
  }
  return all;
}

// The nonzeros regrouped by phase and input channel.
struct Regrouped {
  std::vector<int32_t> row_ptr;  // (phases + 1) * in_channels + 1: after the phases, the nonzeros that meet no input
  std::vector<int32_t> keys;     // (output channel in the group * kernel height + kh) * kernel width + kw
  std::vector<int32_t> order;
};

Regrouped regroup(const Pattern& pattern, const Conv2dGeometry& g) {
  const int64_t taps = g.kernel_height * g.kernel_width;
  const int64_t group_rows = g.out_channels / g.groups, group_channels = g.in_channels / g.groups;
  const int64_t rows = std::min(g.stride_height, g.in_height), cols = std::min(g.stride_width, g.in_width);
  std::vector<int64_t> phase_of_tap(taps);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t row = phase_of(tap / g.kernel_width, g.stride_height, g.dilation_height, g.pad_top);
    const int64_t col = phase_of(tap % g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
    phase_of_tap[tap] = row < rows && col < cols ? row * cols + col : rows * cols;
  }
  const int64_t buckets = (rows * cols + 1) * g.in_channels;
  Regrouped result;
  result.row_ptr.assign(buckets + 1, 0);
  result.keys.resize(pattern.nnz());
  result.order.resize(pattern.nnz());
  const auto visit = [&](auto&& use) {
    for (int64_t row = 0; row < pattern.rows(); ++row) {
      const int64_t first_channel = row / group_rows * group_channels;
      for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
        const uint32_t col = static_cast<uint32_t>(pattern.col_idx()[k]);
        const uint32_t channel = col / static_cast<uint32_t>(taps), tap = col % static_cast<uint32_t>(taps);
        use(phase_of_tap[tap] * g.in_channels + first_channel + channel, k, row % group_rows * taps + tap);
      }
    }
  };
  visit([&](int64_t bucket, int32_t, int64_t) { ++result.row_ptr[bucket + 1]; });
  for (int64_t bucket = 0; bucket < buckets; ++bucket) result.row_ptr[bucket + 1] += result.row_ptr[bucket];
  std::vector<int32_t> next(result.row_ptr.begin(), result.row_ptr.end() - 1);
  visit([&](int64_t bucket, int32_t k, int64_t key) {
    const int32_t place = next[bucket]++;
    result.keys[place] = static_cast<int32_t>(key);
    result.order[place] = k;
  });
  return result;
}

// The model's own choice and, where tuning may find a faster one with the same sums, the next best.
TunedPlan tuned_plan(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, const Extents& extents,
                     const VectorUnit& unit, Use use) {
  std::vector<TileChoice> choices = tile_choices(correlation, row_ptr[correlation.rows()], extents, unit, use);
  if (use == Use::accumulate && tuning()) {
    keep_alike(choices);
  } else {
    choices.resize(1);
  }
  std::vector<TilePlan> plans;
  for (const TileChoice& choice : choices) plans.push_back(build_tile_plan(correlation, row_ptr, keys, unit, choice));
  return TunedPlan(std::move(plans));
}

ConvPlan build_at_outputs(const Pattern& pattern, const Conv2dGeometry& g, const Extents& extents, const VectorUnit& unit,
                          Use use) {
  Correlation correlation;
  correlation.groups = g.groups;
  correlation.rows_per_group = g.out_channels / g.groups;
  correlation.channels_per_group = g.in_channels / g.groups;
  correlation.row_step = g.stride_height;
  correlation.col_step = g.stride_width;
  correlation.row_offsets = tap_offsets(g.kernel_height, g.dilation_height, g.pad_top);
  correlation.col_offsets = tap_offsets(g.kernel_width, g.dilation_width, g.pad_left);
  correlation.source_rows = g.in_height;
  correlation.source_cols = g.in_width;
  ConvPlan plan;
  plan.parts.push_back({tuned_plan(correlation, pattern.row_ptr(), pattern.col_idx(), extents, unit, use),
                        {0, 1, g.out_height()},
                        {0, 1, g.out_width()},
                        0});
  return plan;
}

ConvPlan build_grad_input(const Pattern& pattern, const Conv2dGeometry& g, const Extents& extents, const VectorUnit& unit) {
  Regrouped regrouped = regroup(pattern, g);
  const std::vector<Phase> rows = phases(g.in_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  const std::vector<Phase> cols = phases(g.in_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  Correlation correlation;
  correlation.groups = g.groups;
  correlation.rows_per_group = g.in_channels / g.groups;
  correlation.channels_per_group = g.out_channels / g.groups;
  correlation.source_rows = g.out_height();
  correlation.source_cols = g.out_width();
  ConvPlan plan;
  std::vector<int32_t> row_ptr(g.in_channels + 1);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < cols.size(); ++c) {
      correlation.row_offsets = rows[r].offsets;
      correlation.col_offsets = cols[c].offsets;
      const int32_t* bounds = regrouped.row_ptr.data() + (r * cols.size() + c) * g.in_channels;
      for (int64_t channel = 0; channel <= g.in_channels; ++channel) row_ptr[channel] = bounds[channel] - bounds[0];
      const Extents part{extents.images, rows[r].lattice.count, is_matmul(g) ? extents.cols : cols[c].lattice.count};
      plan.parts.push_back(
          {tuned_plan(correlation, row_ptr.data(), regrouped.keys.data() + bounds[0], part, unit, Use::accumulate),
           rows[r].lattice, cols[c].lattice, bounds[0]});
    }
  }
  plan.order = std::move(regrouped.order);
  return plan;
}

template <class Build>
std::shared_ptr<const ConvPlan> planned(Direction direction, const Pattern& pattern, const Conv2dGeometry& g,
                                        const VectorUnit& unit, Build build) {
  const bool to_input = direction == Direction::grad_input;
  const int64_t widest = widest_tile(unit, direction == Direction::grad_weight ? Use::sample : Use::accumulate) * unit.lanes;
  Extents extents{g.batch, to_input ? g.in_height : g.out_height(), to_input ? g.in_width : g.out_width()};
  extents.images = images_that_matter(extents, widest);
  if (is_matmul(g) && g.batch == 1) extents.cols = columns_that_matter(extents.cols, widest, unit);
  return pattern.plans().get(make_key(direction, g, extents, unit), [&] { return build(extents); });
}

}  // namespace

std::shared_ptr<const ConvPlan> forward_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit) {
  return planned(Direction::forward, pattern, geometry, unit,
                 [&](const Extents& extents) { return build_at_outputs(pattern, geometry, extents, unit, Use::accumulate); });
}

std::shared_ptr<const ConvPlan> grad_weight_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit) {
  return planned(Direction::grad_weight, pattern, geometry, unit,
                 [&](const Extents& extents) { return build_at_outputs(pattern, geometry, extents, unit, Use::sample); });
}

std::shared_ptr<const ConvPlan> grad_input_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit) {
  return planned(Direction::grad_input, pattern, geometry, unit,
                 [&](const Extents& extents) { return build_grad_input(pattern, geometry, extents, unit); });
}

}  // namespace mpl_sparse
