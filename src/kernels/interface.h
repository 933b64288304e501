// What a backend offers: one table of functions per scalar type, over plain structs.
//
// Files that are compiled once per instruction set (kernels/, simd/, targets/) include nothing of the standard library that
// defines code: an inline function of <vector> compiled with AVX-512 enabled could replace the ordinary one everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mpl_sparse/activation.h"

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

// One row of a segment: elements [begin, end) lie inside the image.
struct RowRange {
  int64_t source;  // the source column of element `begin`
  int64_t begin, end, length;
};

// A row of a packed channel, and where its first element inside the image comes from.
struct PackedRow {
  int64_t to, from;
  RowRange range;
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
  PackedRow* rows;  // scratch for as many rows as a packed channel has
  Scalar* packed;
};

// Where a tile's flat positions lie in the output: position image * image_stride + row * row_stride + column.
struct TileShape {
  int64_t images, rows, cols;
  int64_t image_stride, row_stride;
};

// Copies between flat tiles and strided images.
template <class Scalar, class Outer>
struct TileJob {
  Scalar* flat;
  int64_t flat_stride;
  Outer* outer;  // the tile's first element in channel 0
  int64_t image_stride, channel_stride, row_stride, col_stride;
  int64_t channels;
  TileShape shape;
};

// How an output comes from the sums of its channel: from the tile of shift s, shifts[s] places later; then the bias is added and
// the activation applied.
template <class Scalar>
struct Epilogue {
  const int64_t* shifts;
  int64_t num_shifts;
  const Scalar* bias;  // may be null
  int64_t bias_stride;
  Activation activation;
};

// The nonzeros of consecutive rows inside one block, those of a row grouped by shift. Group (r, s) has the entries
// bounds[r * (num_shifts + 1) + s] up to the next bound.
struct BlockRows {
  const uint32_t* bounds;
  int64_t rows;
  int64_t num_shifts;
  const uint16_t* offsets;  // of an entry: into the packed tile
  const uint16_t* places;   // of an entry: its value stands at the row's first bound + place; null: where the entry stands
};

// Whether sums start at zero or go on from what an earlier block left.
enum class Start { zero, sums };

// Consecutive rows of a sparse matrix, for products with one dense vector; the index arrays are those of CSR. Values that come
// with it are those of its rows: the first is that of the first row's first nonzero.
template <class Index>
struct RowsJob {
  const int32_t* row_ptr;
  const Index* col_idx;
  int64_t row_begin, row_end;
  int64_t mean_nonzeros;  // of a row of the whole matrix
};

// The same, with one bit a column: bit c % 8 of a row's byte c / 8, bytes up to a multiple of 64 columns, and zero beyond `cols`.
// Values may be read, and gradients at them written, up to a vector past the last; inputs are readable up to a multiple of a
// vector.
struct BitRowsJob {
  const int32_t* row_ptr;
  const uint8_t* bits;
  int64_t row_bytes, cols;
  int64_t row_begin, row_end;
};

// Where the results of rows go: out[r * out_stride] = activation(bias[r] + sum).
template <class Scalar>
struct RowResults {
  const Scalar* bias;  // may be null
  int64_t bias_stride;
  Scalar* out;
  int64_t out_stride;
  Activation activation;
};

// The least densities at which bits are faster than indices, by what is computed; above 1: never.
struct BitDensities {
  double dot, add, sample;
};

constexpr int kMostSampleVectors = 64;  // sums of dot products stay in registers, so tiles may be wide

template <class Scalar>
struct Kernels {
  int lanes;            // elements of a vector
  int max_vectors;      // the widest tile that accumulate takes, in vectors
  int alignment;        // loads at multiples of this many elements are fast; 1: all are
  double nonzero_cost;  // of accumulate, what a nonzero takes beside its vectors, in vectors
  double far_cost;      // how much slower a vector comes from the second-level cache: 1 is 10% at 48 KB and 40% at 96 KB
  BitDensities bit_densities;

  void (*pack)(const PackJob<Scalar>& job);
  // flat[channel][shift] -> outer; a row of outputs may be read up to a vector past its end
  void (*store)(const TileJob<const Scalar, Scalar>& job, const Epilogue<Scalar>& epilogue);
  // outer -> flat[channel]; the rest of its flat_stride elements is zero
  void (*load)(const TileJob<Scalar, const Scalar>& job);
  // sums[r][s][p] = start + sum over the group's entries of value * packed[offset + p], p < vectors * lanes
  void (*accumulate)(int vectors, const Scalar* packed, const BlockRows& block, const Scalar* values, Start start, Scalar* sums);
  // grad_values[entry] += sum over p of grad[r * grad_stride + p - shifts[s]] * packed[offset + p], p < vectors * lanes, where
  // in_use[p - shifts[s]]; elsewhere grad is zero. At most kMostSampleVectors vectors.
  void (*sample)(int vectors, const Scalar* packed, const BlockRows& block, const int64_t* shifts, const Scalar* grad,
                 int64_t grad_stride, const uint8_t* in_use, Scalar* grad_values);
  // values: from the order of the entries to their places. scratch: as many as a row has in the block
  void (*order_values)(const BlockRows& block, Scalar* values, Scalar* scratch);
  // results[r] = sum over the row's nonzeros of values[k] * x[col_idx[k]]
  void (*rows_dot_u16)(const RowsJob<uint16_t>& job, const Scalar* values, const Scalar* x, const RowResults<Scalar>& results);
  void (*rows_dot_i32)(const RowsJob<int32_t>& job, const Scalar* values, const Scalar* x, const RowResults<Scalar>& results);
  void (*rows_dot_bits)(const BitRowsJob& job, const Scalar* values, const Scalar* x, const RowResults<Scalar>& results);
  // sums[col_idx[k]] += g[row * g_stride] * values[k]; with bits, sums are writable up to a multiple of a vector
  void (*rows_add_u16)(const RowsJob<uint16_t>& job, const Scalar* values, const Scalar* g, int64_t g_stride, Scalar* sums);
  void (*rows_add_i32)(const RowsJob<int32_t>& job, const Scalar* values, const Scalar* g, int64_t g_stride, Scalar* sums);
  void (*rows_add_bits)(const BitRowsJob& job, const Scalar* values, const Scalar* g, int64_t g_stride, Scalar* sums);
  // grad_values[k] = g[row * g_stride] * x[col_idx[k]]
  void (*rows_sample_u16)(const RowsJob<uint16_t>& job, const Scalar* g, int64_t g_stride, const Scalar* x, Scalar* grad_values);
  void (*rows_sample_i32)(const RowsJob<int32_t>& job, const Scalar* g, int64_t g_stride, const Scalar* x, Scalar* grad_values);
  void (*rows_sample_bits)(const BitRowsJob& job, const Scalar* g, int64_t g_stride, const Scalar* x, Scalar* grad_values);
  // out[i] = source[order[i]]
  void (*permute)(const int32_t* order, int64_t count, const Scalar* source, Scalar* out);
};

}  // namespace mpl_sparse
