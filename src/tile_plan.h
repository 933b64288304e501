// How the nonzeros of a sparse weight meet packed tiles: built once for a pattern, a geometry and a vector unit.
//
// A tile is a rectangle of outputs of one or more images, laid flat with the packed row's stride, so that for every nonzero the
// same `vectors` consecutive vectors, at an offset of its own, hold all that it multiplies. Positions between rows belong to no
// output and are dropped. The nonzeros are cut into blocks by source channel: a block's packed channels fit a cache, and the
// nonzeros that a row has in a block are neighbours in row-major order, so values and their gradients are used where they lie.
//
// Where unaligned loads are slow, the packed rows are padded to aligned strides and a row's nonzeros are grouped by shift, the
// rest of their offset. A group is summed from aligned loads, and the results are shifted instead, once a row and tile.
#pragma once

#include <cstdint>
#include <vector>

#include "axis.h"
#include "kernels/interface.h"

namespace mpl_sparse {

// out[image, row, j, c] = sum over nonzeros (row; channel, kh, kw) of
//   weight * source[image, channel of the row's group, j * row_step + row_offsets[kh], c * col_step + col_offsets[kw]]
struct Correlation {
  int64_t groups = 1;
  int64_t rows_per_group = 1;
  int64_t channels_per_group = 1;
  int64_t row_step = 1, col_step = 1;
  std::vector<int64_t> row_offsets, col_offsets;  // one a kernel row or column; kNoTap for one that has no nonzeros here
  int64_t source_rows = 0, source_cols = 0;       // what lies beyond is zero

  int64_t rows() const { return groups * rows_per_group; }
  int64_t taps() const { return static_cast<int64_t>(row_offsets.size() * col_offsets.size()); }
};

// The outputs of one image, and how many images there are.
struct Extents {
  int64_t images, rows, cols;
  int64_t count() const { return images * rows * cols; }
};

// What the kernels of a backend can hold.
struct VectorUnit {
  int64_t lanes;
  int64_t max_vectors;
  int64_t alignment;  // in elements
  int64_t reach;      // as in Kernels
  int64_t element_bytes;
  double split_cost, nonzero_cost, far_cost;  // as in Kernels
};

template <class Scalar>
VectorUnit unit_of(const Kernels<Scalar>& kernel) {
  return {kernel.lanes,      kernel.max_vectors,  kernel.alignment, kernel.reach, static_cast<int64_t>(sizeof(Scalar)),
          kernel.split_cost, kernel.nonzero_cost, kernel.far_cost};
}

// Part of the kernel, all of it unless a single channel's tile would be too large for 16-bit offsets.
struct Window {
  int64_t tap_row_begin, tap_row_end, tap_col_begin, tap_col_end;
  Axis rows, cols;
  int64_t row_stride, image_stride, segment_stride, channel_stride;  // of the packed tile, in elements

  // Rows of a packed channel.
  int64_t packed_rows(const Extents& tile) const {
    return static_cast<int64_t>(rows.segments.size() * cols.segments.size()) * tile.images * rows.longest;
  }
};

struct Block {
  int64_t window;
  int64_t row_begin, row_end;          // output rows that may have nonzeros in this block
  int64_t channel_begin, channel_end;  // into TilePlan::channels, in slot order
  int64_t slice;                       // into TilePlan::bounds, number of shifts + 1 entries a row
  Start start;                         // zero: no earlier block has these rows
};

struct TilePlan {
  int64_t vectors = 1;                                 // of one tile
  int64_t rows = 0;                                    // output rows in all
  int64_t row_step = 1, col_step = 1;                  // of the source, from one output to the next
  Extents tile{};                                      // of one tile
  int64_t tile_image_stride = 0, tile_row_stride = 0;  // flat position of an output: image, row
  std::vector<Window> windows;
  std::vector<Block> blocks;
  std::vector<int32_t> channels;
  std::vector<int64_t> shifts;    // increasing; {0} where offsets are used as they are
  std::vector<uint32_t> bounds;   // see BlockRows
  std::vector<uint16_t> offsets;  // one a nonzero; those that a row has in a block lie together
  std::vector<uint16_t> places;   // one a nonzero; empty when the values are in order: there is one shift
  int64_t packed_elements = 0;    // what a tile's largest block needs
  int64_t lanes = 1;

  int64_t nnz() const { return static_cast<int64_t>(offsets.size()); }
  int64_t num_shifts() const { return static_cast<int64_t>(shifts.size()); }
  int64_t vectors_for(const TileShape& shape) const {
    const int64_t last =
        (shape.images - 1) * shape.image_stride + (shape.rows - 1) * shape.row_stride + shape.cols + shifts.back();
    return (last + lanes - 1) / lanes;
  }
};

// What a plan is for: sums at the outputs, or the gradient at the nonzeros.
enum class Use { accumulate, sample };

// The widest tile of such a plan, in vectors.
int64_t widest_tile(const VectorUnit& unit, Use use);

// How tiles are laid out: their outputs, whether those are all columns of an output row, and the multiple that the packed strides
// are rounded to.
struct TileLayout {
  Extents tile;
  bool whole_rows;
  int64_t alignment;
  bool operator==(const TileLayout& other) const {
    return tile.images == other.tile.images && tile.rows == other.tile.rows && tile.cols == other.tile.cols &&
           alignment == other.alignment;
  }
};

// A layout, its width in vectors, the most bytes of a block, and what the model estimates that to cost.
struct TileChoice {
  TileLayout layout;
  int64_t vectors;
  int64_t block_bytes;
  double cost;
};

// The plans that there may be for a weight of nnz nonzeros, the cheapest first; at least one. extents: what the plan is to be
// fast for; it serves any number of images, and of columns when there is one row.
std::vector<TileChoice> tile_choices(const Correlation& correlation, int64_t nnz, const Extents& extents, const VectorUnit& unit,
                                     Use use);

// Keeps the first choice and the few after it that cost about as much and form every sum in the same order: what is computed with
// them are the same bits.
void keep_alike(std::vector<TileChoice>& choices);

// row_ptr (rows + 1) and keys: CSR of the nonzeros, where key = (channel in the group * kernel rows + kh) * kernel columns + kw,
// increasing within a row. O(nnz + rows * blocks).
TilePlan build_tile_plan(const Correlation& correlation, const int32_t* row_ptr, const int32_t* keys, const VectorUnit& unit,
                         const TileChoice& choice);

}  // namespace mpl_sparse
