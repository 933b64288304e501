// Packing: padding, stride, dilation and memory format are settled here, so that the arithmetic sees only flat tiles.
#pragma once

#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
inline void set_zero(Scalar* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0;
}

template <class Scalar>
inline void copy_strided(const Scalar* from, int64_t stride, int64_t count, Scalar* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

inline RowRange clip(const Segment& segment, int64_t tile_start, int64_t step, int64_t extent) {
  const int64_t source = (tile_start + segment.first) * step + segment.phase;
  int64_t begin = source >= 0 ? 0 : (-source + step - 1) / step;
  int64_t end = source < extent ? (extent - source + step - 1) / step : 0;
  if (begin > segment.length) begin = segment.length;
  if (end > segment.length) end = segment.length;
  if (end < begin) end = begin;
  return {source + begin * step, begin, end, segment.length};
}

// Calls visit(i, j) for the first places of pairs of vectors that cover `count` elements, at least a vector's. The last pair ends
// with them: it may overlap the one before, or itself.
template <class V, class Visit>
[[gnu::always_inline]] inline void for_each_pair(int64_t count, Visit visit) {
  constexpr int64_t lanes = V::lanes;
  if (count < 2 * lanes) return visit(0, count - lanes);
  for (int64_t i = 0; i < count - 2 * lanes; i += 2 * lanes) visit(i, i + lanes);
  visit(count - 2 * lanes, count - lanes);
}

// Zeros in whole vectors: mostly one, for which a loop would be a call of memset.
template <class V>
[[gnu::always_inline]] inline void zero_vectors(typename V::scalar* to, int64_t count) {
  if (count <= 0) return;
  V::store(to, V::zero());
  for (int64_t i = V::lanes; i < count; i += V::lanes) V::store(to + i, V::zero());
}

// `count` elements, `stride` apart; Stride: 1 or 2 where it is that, 0: any. Whole vectors: fewer elements than one has are one,
// with zeros.
template <class V, int Stride>
[[gnu::always_inline]] inline void copy_elements(const typename V::scalar* from, int64_t stride, int64_t count,
                                                 typename V::scalar* to) {
  constexpr int64_t lanes = V::lanes;
  if (count <= 0) return;
  if constexpr (Stride == 1) {
    if (count < lanes) return V::store(to, V::load_partial(from, static_cast<int>(count)));
    for_each_pair<V>(count, [&](int64_t i, int64_t j) {
      const typename V::reg one = V::load(from + i), other = V::load(from + j);
      V::store(to + i, one);
      V::store(to + j, other);
    });
  } else if constexpr (Stride == 2) {
    if (count < lanes) return V::store(to, V::load_even_partial(from, static_cast<int>(count)));
    // The last vector may not read the element after its own.
    for (int64_t i = 0; i + lanes < count; i += lanes) V::store(to + i, V::load_even(from + 2 * i));
    V::store(to + count - lanes, V::load_even_last(from + 2 * (count - lanes)));
  } else {
    for (int64_t i = 0; i < count; ++i, from += stride) to[i] = *from;
  }
}

// Columns outermost, eight at a time: for images whose channels lie side by side (channels_last, a linear layer's batch).
template <class Scalar>
inline void pack_row_by_column(const PackJob<Scalar>& job, const Scalar* source, const RowRange& range, Scalar* to) {
  const int64_t stride = job.layout.col_step * job.col_stride;
  const int64_t channel_stride = job.layout.channel_stride;
  int64_t column = range.begin;
  for (; column + 8 <= range.end; column += 8, source += 8 * stride) {
    Scalar* out = to + column;
    for (int64_t slot = 0; slot < job.num_channels; ++slot, out += channel_stride) {
      const Scalar* from = source + job.channels[slot] * job.channel_stride;
      for (int i = 0; i < 8; ++i) out[i] = from[i * stride];
    }
  }
  for (; column < range.end; ++column, source += stride) {
    Scalar* out = to + column;
    for (int64_t slot = 0; slot < job.num_channels; ++slot, out += channel_stride) {
      *out = source[job.channels[slot] * job.channel_stride];
    }
  }
  for (int64_t slot = 0; slot < job.num_channels; ++slot, to += channel_stride) {
    set_zero(to, range.begin);
    set_zero(to + range.end, range.length - range.end);
  }
}

template <class Scalar>
inline void prefetch_elements(const Scalar* from, int64_t count) {
  constexpr int64_t line = 64 / sizeof(Scalar);
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(from + i, 0, 2);
}

// Lists the rows of a packed channel in the order of their addresses; a row outside its image has an empty range. Returns how
// many.
template <class Scalar>
inline int64_t list_rows(const PackJob<Scalar>& job) {
  const PackLayout& layout = job.layout;
  PackedRow* packed_row = job.rows;
  for (int64_t c = 0; c < layout.num_col_segments; ++c) {
    const RowRange columns = clip(layout.col_segments[c], job.col_start, layout.col_step, job.width);
    const RowRange nothing = {0, columns.length, columns.length, columns.length};
    for (int64_t r = 0; r < layout.num_row_segments; ++r) {
      const Segment& rows = layout.row_segments[r];
      const int64_t first_row = (job.row_start + rows.first) * layout.row_step + rows.phase;
      const int64_t segment = (c * layout.num_row_segments + r) * layout.segment_stride;
      for (int64_t image = 0; image < job.images; ++image) {
        for (int64_t e = 0; e < rows.length; ++e) {
          const int64_t row = first_row + e * layout.row_step;
          const bool inside = row >= 0 && row < job.height && columns.end > columns.begin;
          packed_row->to = segment + image * layout.image_stride + e * layout.row_stride;
          packed_row->from = inside ? image * job.image_stride + row * job.row_stride + columns.source * job.col_stride : 0;
          packed_row->range = inside ? columns : nothing;
          ++packed_row;
        }
      }
    }
  }
  return packed_row - job.rows;
}

// Channel by channel: the rows of one are neighbours, and the order of writing is that of the addresses. A packed row is zeros,
// elements, zeros. Whole vectors are written, up to one past the row's end: what lies there is packed later, or is read by
// nobody.
template <class V, int Stride>
void pack_channels(const PackJob<typename V::scalar>& job, int64_t num_rows) {
  using Scalar = typename V::scalar;
  // Copies of the job's fields: a vector that is stored could change any of them, as far as the compiler knows.
  const int64_t stride = job.layout.col_step * job.col_stride, ahead = job.ahead, num_channels = job.num_channels;
  const int64_t from_stride = job.channel_stride, to_stride = job.layout.channel_stride;
  const PackedRow* const rows = job.rows;
  const PackedRow* const rows_end = rows + num_rows;
  const int32_t* const channels = job.channels;
  const Scalar* const source = job.source;
  Scalar* to = job.packed;
  for (int64_t slot = 0; slot < num_channels; ++slot, to += to_stride) {
    const Scalar* from = source + channels[slot] * from_stride;
    for (const PackedRow* row = rows; row != rows_end; ++row) {
      Scalar* const out = to + row->to;
      const int64_t begin = row->range.begin, end = row->range.end, length = row->range.length;
      const Scalar* const first = from + row->from;
      if (ahead) prefetch_elements(first + ahead, (end - begin) * stride);
      zero_vectors<V>(out, begin);
      copy_elements<V, Stride>(first, stride, end - begin, out + begin);
      zero_vectors<V>(out + end, length - end);
    }
  }
}

template <class V>
void pack(const PackJob<typename V::scalar>& job) {
  const int64_t rows = list_rows(job);
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for (int64_t i = 0; i < rows; ++i) {
      pack_row_by_column(job, job.source + job.rows[i].from, job.rows[i].range, job.packed + job.rows[i].to);
    }
    return;
  }
  switch (job.layout.col_step * job.col_stride) {
    case 1:
      return pack_channels<V, 1>(job, rows);
    case 2:
      return pack_channels<V, 2>(job, rows);
    default:
      return pack_channels<V, 0>(job, rows);
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
