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
inline void for_each_pair(int64_t count, Visit visit) {
  constexpr int64_t lanes = V::lanes;
  if (count < 2 * lanes) return visit(0, count - lanes);
  for (int64_t i = 0; i < count - 2 * lanes; i += 2 * lanes) visit(i, i + lanes);
  visit(count - 2 * lanes, count - lanes);
}

// Copies a row in whole vectors: fewer elements than a vector's are one, with zeros.
template <class V>
inline void copy_row(const typename V::scalar* from, int64_t count, typename V::scalar* to) {
  if (count < V::lanes) return V::store(to, V::load_partial(from, static_cast<int>(count)));
  for_each_pair<V>(count, [&](int64_t i, int64_t j) {
    const typename V::reg one = V::load(from + i), other = V::load(from + j);
    V::store(to + i, one);
    V::store(to + j, other);
  });
}

// Zeros from `begin` to `end`, in whole vectors: mostly one, for which a loop would be a call of memset.
template <class V>
inline void zero_row(typename V::scalar* to, int64_t begin, int64_t end) {
  if (begin >= end) return;
  V::store(to + begin, V::zero());
  for (int64_t i = begin + V::lanes; i < end; i += V::lanes) V::store(to + i, V::zero());
}

// One packed row: zeros, elements from `begin` to `end`, zeros. Whole vectors are written, up to one past the row's end: what
// lies there is packed later, or is read by nobody.
template <class V>
inline void pack_row(const typename V::scalar* from, int64_t stride, const RowRange& range, typename V::scalar* to) {
  zero_row<V>(to, 0, range.begin);
  int64_t i = range.begin;
  if (i == range.end) {
  } else if (stride == 1) {
    copy_row<V>(from, range.end - i, to + i);
  } else if (stride == 2) {
    // The last vector may not read the element after its own.
    for (; i + V::lanes < range.end; i += V::lanes, from += 2 * V::lanes) V::store(to + i, V::load_even(from));
    V::store(to + i, V::load_even_partial(from, static_cast<int>(range.end - i)));
  } else {
    for (; i < range.end; ++i, from += stride) to[i] = *from;
  }
  zero_row<V>(to, range.end, range.length);
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

// Channel by channel: the rows of one are neighbours, and the order of writing is that of the addresses.
template <class V>
[[gnu::always_inline]] inline void pack_channels(const PackJob<typename V::scalar>& job, int64_t rows, int64_t stride) {
  for (int64_t slot = 0; slot < job.num_channels; ++slot) {
    const typename V::scalar* from = job.source + job.channels[slot] * job.channel_stride;
    typename V::scalar* to = job.packed + slot * job.layout.channel_stride;
    for (int64_t i = 0; i < rows; ++i) {
      const PackedRow row = job.rows[i];
      pack_row<V>(from + row.from, stride, row.range, to + row.to);
    }
  }
}

template <class V>
void pack(const PackJob<typename V::scalar>& given) {
  using Scalar = typename V::scalar;
  const PackJob<Scalar> job = given;  // stores through vectors might change what is only referred to
  const int64_t rows = list_rows(job);
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for (int64_t i = 0; i < rows; ++i) {
      pack_row_by_column(job, job.source + job.rows[i].from, job.rows[i].range, job.packed + job.rows[i].to);
    }
    return;
  }
  const int64_t stride = job.layout.col_step * job.col_stride;
  if (stride == 1) return pack_channels<V>(job, rows, 1);
  pack_channels<V>(job, rows, stride);
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
