#include "correlate.h"

#include <algorithm>

#include "mpl_sparse/threads.h"
#include "workspace.h"

namespace mpl_sparse {
namespace {

constexpr int64_t kSumsBytes = 192 * 1024;        // a task's sums, to stay in a second-level cache
constexpr int64_t kMinRowsPerTask = 8;            // below this, packing a tile again costs more than a thread gains
constexpr int64_t kTasksPerThread = 1;            // each packs what it reads: more would balance better and copy more
constexpr int64_t kTilesToReorder = 8;            // from so many on, looking up places costs more than reordering the values
constexpr int64_t kFarBytes = 4 << 20;            // a source above this comes from memory or the last cache: worth prefetching
constexpr int64_t kSerialMultiplyAdds = 1000000;  // below this, packing once for each task costs more than a thread gains

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The tiles that cover the outputs of all images.
class Tiles {
 public:
  Tiles(const TilePlan& plan, const Extents& extents)
      : plan_(plan),
        extents_(extents),
        down_(ceil_div(extents.rows, plan.tile.rows)),
        across_(ceil_div(extents.cols, plan.tile.cols)),
        count_(ceil_div(extents.images, plan.tile.images) * down_ * across_) {}

  int64_t count() const { return count_; }

  struct Place {
    int64_t image, row, col;
    TileShape shape;
    int vectors;
  };

  Place at(int64_t index) const {
    Place place;
    place.col = index % across_ * plan_.tile.cols;
    place.row = index / across_ % down_ * plan_.tile.rows;
    place.image = index / across_ / down_ * plan_.tile.images;
    place.shape = {std::min(plan_.tile.images, extents_.images - place.image),
                   std::min(plan_.tile.rows, extents_.rows - place.row), std::min(plan_.tile.cols, extents_.cols - place.col),
                   plan_.tile_image_stride, plan_.tile_row_stride};
    place.vectors = static_cast<int>(plan_.vectors_for(place.shape));
    return place;
  }

 private:
  const TilePlan& plan_;
  const Extents& extents_;
  int64_t down_, across_, count_;
};

template <class Scalar>
Scalar* element(const Planes<Scalar>& planes, const Tiles::Place& place, int64_t channel) {
  return planes.data + place.image * planes.image_stride + channel * planes.channel_stride + place.row * planes.row_stride +
         place.col * planes.col_stride;
}

// From the source of a tile to that of another.
template <class Scalar>
int64_t source_distance(const TilePlan& plan, const Planes<const Scalar>& planes, const Tiles::Place& from,
                        const Tiles::Place& to) {
  return (to.image - from.image) * planes.image_stride + (to.row - from.row) * plan.row_step * planes.row_stride +
         (to.col - from.col) * plan.col_step * planes.col_stride;
}

template <class Scalar>
PackJob<Scalar> pack_job(const TilePlan& plan, const Block& block, const SourcePlanes<Scalar>& source, const Tiles::Place& place,
                         int64_t ahead, Scalar* packed) {
  const Window& window = plan.windows[block.window];
  const Planes<const Scalar>& planes = source.planes;
  return {planes.data + place.image * planes.image_stride,
          planes.image_stride,
          planes.channel_stride,
          planes.row_stride,
          planes.col_stride,
          source.height,
          source.width,
          place.shape.images,
          plan.channels.data() + block.channel_begin,
          block.channel_end - block.channel_begin,
          place.row,
          place.col,
          ahead,
          {window.rows.segments.data(), static_cast<int64_t>(window.rows.segments.size()), plan.row_step,
           window.cols.segments.data(), static_cast<int64_t>(window.cols.segments.size()), plan.col_step, window.row_stride,
           window.image_stride, window.segment_stride, window.channel_stride},
          scratch<PackedRow>(Scratch::rows, window.packed_rows(plan.tile)),
          packed};
}

// The rows [first, last) of a block that has them all.
BlockRows block_rows(const TilePlan& plan, const Block& block, int64_t first, int64_t last) {
  const int64_t slice = block.slice + (first - block.row_begin) * (plan.num_shifts() + 1);
  return {plan.bounds.data() + slice, last - first, plan.num_shifts(), plan.offsets.data(),
          plan.places.empty() ? nullptr : plan.places.data()};
}

// Calls visit(block, first of its rows, rows) for each block that has some of the rows [first, last).
template <class Visit>
void for_each_block(const TilePlan& plan, int64_t first, int64_t last, Visit visit) {
  for (const Block& block : plan.blocks) {
    const int64_t block_first = std::max(first, block.row_begin), block_last = std::min(last, block.row_end);
    if (block_first < block_last) visit(block, block_first, block_rows(plan, block, block_first, block_last));
  }
}

int64_t most_in_a_row(const BlockRows& rows) {
  uint32_t most = 0;
  for (int64_t row = 0; row < rows.rows; ++row) {
    const uint32_t* bounds = rows.bounds + row * (rows.num_shifts + 1);
    most = std::max(most, bounds[rows.num_shifts] - bounds[0]);
  }
  return most;
}

bool is_empty(const BlockRows& rows) {
  for (int64_t row = 0; row < rows.rows; ++row) {
    const uint32_t* bounds = rows.bounds + row * (rows.num_shifts + 1);
    if (bounds[0] != bounds[rows.num_shifts]) return false;
  }
  return true;
}

template <class Scalar>
Scalar* packed_scratch(const TilePlan& plan, int64_t tile_elements) {
  // The last nonzero's vectors may reach past the last packed element.
  return scratch<Scalar>(Scratch::packed, plan.packed_elements + tile_elements);
}

int threads_for(const TilePlan& plan, const Extents& extents, int num_threads) {
  return plan.nnz() * extents.count() < kSerialMultiplyAdds ? 1 : num_threads;
}

// Rows of outputs a task takes: few enough for its sums to stay in cache and for each thread to have work.
int64_t rows_per_task(int64_t rows, int64_t row_bytes, int64_t tiles, int num_threads) {
  int64_t per_task = std::max<int64_t>(1, kSumsBytes / row_bytes);
  if (num_threads > 1) {
    const int64_t parts = ceil_div(kTasksPerThread * num_threads, std::max<int64_t>(1, tiles));
    per_task = std::min(per_task, std::max(kMinRowsPerTask, ceil_div(rows, parts)));
  }
  return std::max<int64_t>(1, std::min(per_task, rows));
}

// The vectors of a tile in which sums are formed: no fewer than the plan's where that would change the order of summation, so
// that an output's bits do not depend on the tile that it lies in.
int summed_vectors(const TilePlan& plan, const Tiles::Place& place) {
  return std::max(place.vectors, static_cast<int>(std::min<int64_t>(plan.vectors, kInOrderVectors)));
}

// The same entries, with values that stand where the entries do.
BlockRows in_order(BlockRows rows) {
  rows.places = nullptr;
  return rows;
}

// The values in the order of the entries.
template <class Scalar>
const Scalar* values_by_entry(const TilePlan& plan, const Scalar* values) {
  Scalar* ordered = scratch<Scalar>(Scratch::ordered, plan.nnz());
  for (const Block& block : plan.blocks) {
    const BlockRows rows = block_rows(plan, block, block.row_begin, block.row_end);
    for (int64_t row = 0; row < rows.rows; ++row) {
      const uint32_t* bounds = rows.bounds + row * (rows.num_shifts + 1);
      for (uint32_t k = bounds[0]; k < bounds[rows.num_shifts]; ++k) ordered[k] = values[bounds[0] + rows.places[k]];
    }
  }
  return ordered;
}

template <class Scalar>
int64_t source_bytes(const TilePlan& plan, const Extents& extents, const SourcePlanes<Scalar>& source) {
  return extents.images * static_cast<int64_t>(plan.channels.size()) * source.height * source.width *
         static_cast<int64_t>(sizeof(Scalar));
}

// The positions of a tile at which an output's gradient stands.
void mark_in_use(const TileShape& shape, uint8_t* in_use) {
  for (int64_t image = 0; image < shape.images; ++image) {
    for (int64_t row = 0; row < shape.rows; ++row) {
      std::fill_n(in_use + image * shape.image_stride + row * shape.row_stride, shape.cols, uint8_t{1});
    }
  }
}

}  // namespace

template <class Scalar>
void correlate(const Kernels<Scalar>& kernel, const TilePlan& plan, const Extents& extents, const SourcePlanes<Scalar>& source,
               const Scalar* values, const Scalar* bias, int64_t bias_stride, const Planes<Scalar>& outputs, int num_threads,
               Activation activation) {
  if (extents.count() == 0 || plan.rows == 0) return;
  const int threads = threads_for(plan, extents, num_threads);
  const Tiles tiles(plan, extents);
  const int64_t tile_elements = summed_vectors(plan, tiles.at(0)) * int64_t{kernel.lanes};
  const int64_t row_bytes = plan.num_shifts() * tile_elements * static_cast<int64_t>(sizeof(Scalar));
  const int64_t per_task = rows_per_task(plan.rows, row_bytes, tiles.count(), threads);
  const int64_t parts = ceil_div(plan.rows, per_task);
  const bool reorder = plan.num_shifts() > 1 && tiles.count() >= kTilesToReorder;
  if (reorder) values = values_by_entry(plan, values);
  const bool far = source_bytes(plan, extents, source) > kFarBytes;

  parallel_for(tiles.count() * parts, threads, [&](int64_t task) {
    const Tiles::Place place = tiles.at(task / parts);
    const int64_t first = task % parts * per_task, last = std::min(plan.rows, first + per_task);
    const int vectors = summed_vectors(plan, place);
    const int64_t stride = vectors * int64_t{kernel.lanes};
    const int64_t next = task / parts + threads;
    const int64_t ahead = far && next < tiles.count() ? source_distance(plan, source.planes, place, tiles.at(next)) : 0;
    Scalar* packed = packed_scratch<Scalar>(plan, tile_elements);
    // A stored row's last vector may reach past the last sum.
    Scalar* sums = scratch<Scalar>(Scratch::sums, per_task * plan.num_shifts() * tile_elements + kernel.lanes);
    for_each_block(plan, first, last, [&](const Block& block, int64_t block_first, const BlockRows& rows) {
      const bool empty = is_empty(rows);
      if (empty && block.start == Start::sums) return;
      if (!empty) kernel.pack(pack_job(plan, block, source, place, ahead, packed));
      kernel.accumulate(vectors, packed, reorder ? in_order(rows) : rows, values, block.start,
                        sums + (block_first - first) * plan.num_shifts() * stride);
    });
    kernel.store({sums, stride, element(outputs, place, first), outputs.image_stride, outputs.channel_stride, outputs.row_stride,
                  outputs.col_stride, last - first, place.shape},
                 {plan.shifts.data(), plan.num_shifts(), bias ? bias + first * bias_stride : nullptr, bias_stride, activation});
  });
}

template <class Scalar>
void sample(const Kernels<Scalar>& kernel, const TilePlan& plan, const Extents& extents, const SourcePlanes<Scalar>& source,
            const Planes<const Scalar>& grad_outputs, Scalar* grad_values, int num_threads) {
  std::fill_n(grad_values, plan.nnz(), Scalar{0});
  if (extents.count() == 0 || plan.nnz() == 0) return;
  const int threads = threads_for(plan, extents, num_threads);
  const Tiles tiles(plan, extents);
  const int64_t tile_elements = tiles.at(0).vectors * int64_t{kernel.lanes};
  // Before a row's gradients lie zeros, for the shifts to reach into.
  const int64_t lead = kernel.lanes, grad_stride = lead + tile_elements;
  const int64_t per_task = rows_per_task(plan.rows, grad_stride * static_cast<int64_t>(sizeof(Scalar)), 1, threads);

  // Each nonzero belongs to one task, which visits the tiles in order: no sum depends on the number of threads.
  parallel_for(ceil_div(plan.rows, per_task), threads, [&](int64_t task) {
    const int64_t first = task * per_task, last = std::min(plan.rows, first + per_task);
    Scalar* packed = packed_scratch<Scalar>(plan, tile_elements);
    Scalar* grad = scratch<Scalar>(Scratch::sums, lead + per_task * grad_stride);
    uint8_t* in_use = scratch<uint8_t>(Scratch::in_use, grad_stride);
    std::fill_n(grad, lead, Scalar{0});
    for (int64_t tile = 0; tile < tiles.count(); ++tile) {
      const Tiles::Place place = tiles.at(tile);
      std::fill_n(in_use, grad_stride, uint8_t{0});
      mark_in_use(place.shape, in_use + lead);
      kernel.load({grad + lead, grad_stride, element(grad_outputs, place, first), grad_outputs.image_stride,
                   grad_outputs.channel_stride, grad_outputs.row_stride, grad_outputs.col_stride, last - first, place.shape});
      for_each_block(plan, first, last, [&](const Block& block, int64_t block_first, const BlockRows& rows) {
        if (is_empty(rows)) return;
        kernel.pack(pack_job(plan, block, source, place, 0, packed));
        kernel.sample(place.vectors, packed, rows, plan.shifts.data(), grad + lead + (block_first - first) * grad_stride,
                      grad_stride, in_use + lead, grad_values);
      });
    }
    if (plan.num_shifts() == 1) return;
    for_each_block(plan, first, last, [&](const Block&, int64_t, const BlockRows& rows) {
      kernel.order_values(rows, grad_values, scratch<Scalar>(Scratch::values, most_in_a_row(rows)));
    });
  });
}

template void correlate<float>(const Kernels<float>&, const TilePlan&, const Extents&, const SourcePlanes<float>&, const float*,
                               const float*, int64_t, const Planes<float>&, int, Activation);
template void correlate<double>(const Kernels<double>&, const TilePlan&, const Extents&, const SourcePlanes<double>&,
                                const double*, const double*, int64_t, const Planes<double>&, int, Activation);
template void sample<float>(const Kernels<float>&, const TilePlan&, const Extents&, const SourcePlanes<float>&,
                            const Planes<const float>&, float*, int);
template void sample<double>(const Kernels<double>&, const TilePlan&, const Extents&, const SourcePlanes<double>&,
                             const Planes<const double>&, double*, int);

}  // namespace mpl_sparse
