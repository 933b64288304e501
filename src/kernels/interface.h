// What a backend offers: one table of functions per scalar type, over plain structs.
//
// Files that are compiled once per instruction set (kernels/, simd/, targets/) include nothing of the standard library that
// defines code: an inline function of <vector> compiled with AVX-512 enabled could replace the ordinary one everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpl_sparse {

// A run of packed elements along one axis. Element e reads source index (tile_start + first + e) * step + phase.
struct Segment {
  int64_t phase;
  int64_t first;
  int64_t length;
};

// How a block's channels lie in the packed tile: [slot][column segment][row segment][image][row][column].
struct PackLayout {
  const Segment* row_segments;
  int64_t num_row_segments;
  int64_t row_step;
  const Segment* col_segments;
  int64_t num_col_segments;
  int64_t col_step;
  int64_t row_stride;      // between packed rows
  int64_t image_stride;    // between the images of a tile
  int64_t segment_stride;  // between row segments
  int64_t channel_stride;  // between slots
};

// Copies one tile of some channels out of strided images; what lies outside an image is zero.
template <class Scalar>
struct PackJob {
  const Scalar* source;  // image 0 of the tile, channel 0, row 0, column 0
  int64_t image_stride, channel_stride, row_stride, col_stride;
  int64_t height, width;
  int64_t images;
  const int32_t* channels;  // the source channel of each slot
  int64_t num_channels;
  int64_t row_start, col_start;  // the tile's first output row and column
  PackLayout layout;
  Scalar* packed;
};

// Where a tile's flat positions lie in the output: position image * image_stride + row * row_stride + column.
struct TileShape {
  int64_t images, rows, cols;
  int64_t image_stride, row_stride;
};

// Copies between flat tiles of `vectors * lanes` elements a channel and strided images.
template <class Scalar, class Outer>
struct TileJob {
  Scalar* flat;  // channels x flat_stride
  int64_t flat_stride;
  Outer* outer;  // the tile's first element in channel 0
  int64_t image_stride, channel_stride, row_stride, col_stride;
  int64_t channels;
  TileShape shape;
};

// The nonzeros of consecutive rows inside one block: entries begin[r] .. end[r] of offsets and values.
struct BlockRows {
  const uint32_t* begin;
  const uint32_t* end;
  int64_t rows;
  const uint16_t* offsets;  // into the packed tile
};

// Rows of a sparse matrix against one dense vector; the index arrays are those of CSR.
template <class Scalar, class Index>
struct RowsJob {
  const int32_t* row_ptr;
  const Index* col_idx;
  int64_t row_begin, row_end;
};

template <class Scalar>
struct Kernels {
  int lanes;            // elements of a vector
  int max_vectors;      // the widest tile, in vectors
  double nonzero_cost;  // of accumulate, what a nonzero takes beside its vectors, in vectors

  void (*pack)(const PackJob<Scalar>& job);
  // flat[channel][position] -> outer
  void (*store)(const TileJob<const Scalar, Scalar>& job);
  // outer -> flat[channel][position]; zero at positions that belong to no output
  void (*load)(const TileJob<Scalar, const Scalar>& job);
  // sums[r][p] += sum over the row's nonzeros of values[k] * packed[offsets[k] + p], p < vectors * lanes
  void (*accumulate)(int vectors, const Scalar* packed, const BlockRows& block, const Scalar* values, Scalar* sums);
  // grad_values[k] += sum over p of grad[r][p] * packed[offsets[k] + p], where in_use[p]; grad is zero elsewhere
  void (*sample)(int vectors, const Scalar* packed, const BlockRows& block, const Scalar* grad, const uint8_t* in_use,
                 Scalar* grad_values);
  // out[r * out_stride] = bias[r] + sum over the row's nonzeros of values[k] * x[col_idx[k]]; bias may be null
  void (*rows_dot_u16)(const RowsJob<Scalar, uint16_t>& job, const Scalar* values, const Scalar* x, const Scalar* bias,
                       int64_t bias_stride, Scalar* out, int64_t out_stride);
  void (*rows_dot_i32)(const RowsJob<Scalar, int32_t>& job, const Scalar* values, const Scalar* x, const Scalar* bias,
                       int64_t bias_stride, Scalar* out, int64_t out_stride);
  // out[i] = source[order[i]]
  void (*permute)(const int32_t* order, int64_t count, const Scalar* source, Scalar* out);
};

}  // namespace mpl_sparse
