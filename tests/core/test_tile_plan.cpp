// Tile plans, read back without a kernel: every nonzero is planned once, and its offset leads to the source element that it
// multiplies.
#include "arrays.h"
#include "check.h"
#include "tile_plan.h"

using namespace mpl_sparse;

namespace {

// What each packed element of a block's channel holds for the tile at the origin: (source row, source column), image by image.
struct Packed {
  int64_t image, row, col;
  bool operator==(const Packed& other) const { return image == other.image && row == other.row && col == other.col; }
};

bool inside(const Correlation& c, const Packed& p) {
  return p.row >= 0 && p.row < c.source_rows && p.col >= 0 && p.col < c.source_cols;
}

// Elements of the source each have a place of their own; zeros may share one.
std::vector<Packed> packed_channel(const Correlation& c, const TilePlan& plan, const Window& window) {
  const Packed nothing{-1, INT64_MIN, INT64_MIN};
  std::vector<Packed> all(window.channel_stride, nothing);
  const int64_t row_segments = static_cast<int64_t>(window.rows.segments.size());
  for (size_t s = 0; s < window.cols.segments.size(); ++s) {
    for (int64_t r = 0; r < row_segments; ++r) {
      for (int64_t image = 0; image < plan.tile.images; ++image) {
        const Segment& rows = window.rows.segments[r];
        const Segment& cols = window.cols.segments[s];
        for (int64_t i = 0; i < rows.length; ++i) {
          for (int64_t j = 0; j < cols.length; ++j) {
            const int64_t place = (static_cast<int64_t>(s) * row_segments + r) * window.segment_stride +
                                  image * window.image_stride + i * window.row_stride + j;
            const Packed here{image, (rows.first + i) * plan.row_step + rows.phase,
                              (cols.first + j) * plan.col_step + cols.phase};
            if (place >= window.channel_stride) {  // the next channel's first
              CHECK(!inside(c, here));
              continue;
            }
            CHECK(all[place] == nothing || (!inside(c, all[place]) && !inside(c, here)));
            all[place] = here;
          }
        }
      }
    }
  }
  return all;
}

void check_choice(const Correlation& c, const Pattern& pattern, const VectorUnit& unit, Use use, const TileChoice& choice) {
  const TilePlan plan = build_tile_plan(c, pattern.row_ptr(), pattern.col_idx(), unit, choice);
  CHECK_EQ(plan.rows, c.rows());
  CHECK_EQ(static_cast<int64_t>(plan.offsets.size()), pattern.nnz());
  CHECK(plan.tile.images >= 1 && plan.tile.rows >= 1 && plan.tile.cols >= 1);
  const TileShape whole{plan.tile.images, plan.tile.rows, plan.tile.cols, plan.tile_image_stride, plan.tile_row_stride};
  const int64_t vectors = plan.vectors_for(whole);
  CHECK(vectors >= 1 && vectors <= widest_tile(unit, use));
  if (plan.windows.size() > 1) CHECK(plan.tile.images == 1 && plan.tile.rows == 1);

  // Windows part the kernel.
  const int64_t kernel_cols = static_cast<int64_t>(c.col_offsets.size());
  std::vector<int> taps(c.taps(), 0);
  std::vector<std::vector<Packed>> packed;
  for (const Window& window : plan.windows) {
    CHECK(window.channel_stride <= 65536);
    for (int64_t kh = window.tap_row_begin; kh < window.tap_row_end; ++kh) {
      for (int64_t kw = window.tap_col_begin; kw < window.tap_col_end; ++kw) ++taps[kh * kernel_cols + kw];
    }
    packed.push_back(packed_channel(c, plan, window));
  }
  CHECK(std::count(taps.begin(), taps.end(), 1) == c.taps());

  CHECK(!plan.shifts.empty() && std::is_sorted(plan.shifts.begin(), plan.shifts.end()));
  CHECK(plan.shifts.front() >= 0 && plan.shifts.back() < unit.alignment);
  CHECK(plan.num_shifts() > 1 ? plan.places.size() == plan.offsets.size() : plan.places.empty());
  std::vector<int> started(c.rows(), 0);

  // Each nonzero once, its channel in the block, its tap in the block's window, its first operand where the offset says.
  std::vector<int> planned(pattern.nnz(), 0);
  std::vector<int64_t> last_block_key(c.rows(), -1);
  for (const Block& block : plan.blocks) {
    const Window& window = plan.windows[block.window];
    CHECK((block.channel_end - block.channel_begin) * window.channel_stride <= plan.packed_elements);
    CHECK((block.channel_end - block.channel_begin) * window.channel_stride <= 65536);
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      CHECK_EQ(started[row]++ > 0, block.start == Start::sums);
      const uint32_t* bounds = plan.bounds.data() + block.slice + (row - block.row_begin) * (plan.num_shifts() + 1);
      const uint32_t first = bounds[0];
      const int64_t previous_block_key = last_block_key[row];
      for (int64_t s = 0; s < plan.num_shifts(); ++s) {
        int64_t last_key = -1;
        for (uint32_t entry = bounds[s]; entry < bounds[s + 1]; ++entry) {
          const uint32_t k = plan.places.empty() ? entry : first + plan.places.at(entry);
          ++planned.at(k);
          CHECK(k >= static_cast<uint32_t>(pattern.row_ptr()[row]) && k < static_cast<uint32_t>(pattern.row_ptr()[row + 1]));
          const int64_t key = pattern.col_idx()[k], tap = key % c.taps(), kh = tap / kernel_cols, kw = tap % kernel_cols;
          CHECK(key > previous_block_key && key > last_key);
          last_key = key;
          last_block_key[row] = std::max(last_block_key[row], key);
          CHECK(kh >= window.tap_row_begin && kh < window.tap_row_end && kw >= window.tap_col_begin && kw < window.tap_col_end);
          if (plan.num_shifts() > 1) CHECK(plan.offsets[entry] % unit.alignment == 0);
          CHECK(plan.offsets[entry] < unit.reach);
          const int64_t slot = plan.offsets[entry] / window.channel_stride;
          const int64_t place = plan.offsets[entry] % window.channel_stride + plan.shifts[s];
          CHECK(slot < block.channel_end - block.channel_begin);
          const int64_t channel = row / c.rows_per_group * c.channels_per_group + key / c.taps();
          CHECK_EQ(int64_t{plan.channels.at(block.channel_begin + slot)}, channel);
          for (int64_t image = 0; image < plan.tile.images; ++image) {
            for (int64_t j = 0; j < plan.tile.rows; ++j) {
              for (int64_t i : {int64_t{0}, plan.tile.cols - 1}) {
                const int64_t position = place + image * plan.tile_image_stride + j * plan.tile_row_stride + i;
                const Packed expected{image, j * c.row_step + c.row_offsets[kh], i * c.col_step + c.col_offsets[kw]};
                if (inside(c, expected)) {
                  CHECK(packed[block.window].at(position) == expected);
                } else if (position < window.channel_stride) {  // a zero; beyond, the next channel's zeros
                  CHECK(!inside(c, packed[block.window][position]));
                }
              }
            }
          }
        }
      }
    }
  }
  CHECK(std::count(planned.begin(), planned.end(), 1) == pattern.nnz());
  CHECK(std::count(started.begin(), started.end(), 0) == 0);
}

// The cheapest plan and some of the dearer ones.
void check_plans(const Correlation& c, const Pattern& pattern, const Extents& extents, const VectorUnit& unit, Use use) {
  const std::vector<TileChoice> choices = tile_choices(c, pattern.nnz(), extents, unit, use);
  for (size_t i = 1; i < choices.size(); ++i) CHECK(choices[i - 1].cost <= choices[i].cost);
  for (size_t i = 0; i < choices.size(); i += 1 + choices.size() / 4) check_choice(c, pattern, unit, use, choices[i]);
}

std::vector<int64_t> offsets(int64_t taps, int64_t dilation, int64_t pad) {
  std::vector<int64_t> result;
  for (int64_t k = 0; k < taps; ++k) result.push_back(k * dilation - pad);
  return result;
}

constexpr VectorUnit kUnits[] = {{16, 14, 8, 1 << 16, 4, 1.5, 1, 1}, {8, 12, 8, 1 << 16, 4, 1.2, 1, 1},
                                 {4, 26, 1, 1 << 14, 4, 1, 2, 4},    {4, 12, 4, 1 << 16, 8, 1.2, 1, 1},
                                 {2, 6, 1, 1 << 13, 8, 1, 1, 1},     {1, 1, 1, 1 << 16, 4, 1, 1, 1}};

void random_plans() {
  Random random(31);
  for (int i = 0; i < 500; ++i) {
    Correlation c;
    c.groups = chance(random, 0.5) ? 1 : pick(random, 2, 30);
    c.rows_per_group = pick(random, 0, 6);
    c.channels_per_group = pick(random, 0, chance(random, 0.2) ? 150 : 8);
    c.row_step = pick(random, 1, 3);
    c.col_step = pick(random, 1, 3);
    c.row_offsets = offsets(pick(random, 1, 5), pick(random, 1, 4), pick(random, 0, 3));
    c.col_offsets = offsets(pick(random, 1, 5), pick(random, 1, 4), pick(random, 0, 3));
    const Extents extents{pick(random, 1, 5), pick(random, 1, 20), pick(random, 1, chance(random, 0.3) ? 300 : 20)};
    c.source_rows = pick(random, 1, 60);
    c.source_cols = pick(random, 1, 60);
    check_plans(c, *random_pattern(c.rows(), c.channels_per_group * c.taps(), chance(random, 0.1) ? 0 : 0.2, random), extents,
                kUnits[pick(random, 0, 5)], chance(random, 0.5) ? Use::accumulate : Use::sample);
  }
}

void giant_kernels() {
  Random random(32);
  for (const VectorUnit& unit : {kUnits[0], kUnits[4]}) {
    for (const auto& [kernel_height, kernel_width, dilation] :
         {std::array<int64_t, 3>{300, 300, 1}, {1, 70000, 1}, {70000, 1, 1}, {3, 40000, 1}, {40, 40, 200}}) {
      Correlation c;
      c.rows_per_group = 2;
      c.row_offsets = offsets(kernel_height, dilation, 2);
      c.col_offsets = offsets(kernel_width, dilation, 2);
      c.source_rows = 40000;
      c.source_cols = 40000;
      check_plans(c, *random_pattern(2, c.taps(), 0.01, random), {2, 12, 30}, unit, Use::accumulate);
      c.channels_per_group = 2;
      c.groups = 2;
      c.row_step = 2;
      check_plans(c, *random_pattern(4, 2 * c.taps(), 0.002, random), {1, 3, 7}, unit, Use::sample);
    }
  }
}

}  // namespace

int main() {
  random_plans();
  giant_kernels();
  return checks::result();
}
