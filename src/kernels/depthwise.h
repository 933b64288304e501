// Depthwise convolution of one plane: few taps, so copies would cost more than sums. A band of source rows is copied once, beside
// zeros for the padding; outputs are summed in registers, several rows of them at once, and stored straight from there.
#pragma once

#include "kernels/bit_rows.h"
#include "kernels/interface.h"
#include "kernels/pack.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V>
inline void set_zero_vectors(typename V::scalar* to, int64_t count) {
  for (int64_t i = 0; i < count; i += V::lanes) V::store(to + i, V::zero());
}

// Calls copy(from, to) for rows that follow each other.
template <class Scalar, class Copy>
inline void each_band_row(const BandJob<Scalar>& job, int64_t first, int64_t end, Copy copy) {
  const Scalar* from = job.source + (job.first_row + first) * job.row_stride;
  Scalar* to = job.packed + first * job.packed_stride;
  for (int64_t row = first; row < end; ++row, from += job.row_stride, to += job.packed_stride) copy(from, to);
}

template <class V>
inline void copy_rows(const BandJob<typename V::scalar>& job, int64_t first, int64_t end) {
  using Scalar = typename V::scalar;
  const int64_t last = job.width - V::lanes;
  if (last < 0) {
    const int width = static_cast<int>(job.width);
    return each_band_row(job, first, end, [&](const Scalar* from, Scalar* to) { V::store(to, V::load_partial(from, width)); });
  }
  each_band_row(job, first, end, [&](const Scalar* from, Scalar* to) {
    for (int64_t i = 0; i < last; i += V::lanes) V::store(to + i, V::load(from + i));
    V::store(to + last, V::load(from + last));
  });
}

// Even columns apart from odd ones.
template <class V>
inline void split_rows(const BandJob<typename V::scalar>& job, int64_t first, int64_t end) {
  using Scalar = typename V::scalar;
  const int64_t pairs = job.width / 2, last = pairs - V::lanes;
  each_band_row(job, first, end, [&](const Scalar* from, Scalar* even) {
    Scalar* const odd = even + job.phase_stride;
    if (job.width % 2) even[pairs] = from[job.width - 1];
    if (last < 0) {
      for (int64_t i = 0; i < pairs; ++i) {
        even[i] = from[2 * i];
        odd[i] = from[2 * i + 1];
      }
      return;
    }
    const auto split = [&](int64_t i) {
      V::store(even + i, V::load_even(from + 2 * i));
      V::store(odd + i, V::load_odd(from + 2 * i));
    };
    for (int64_t i = 0; i < last; i += V::lanes) split(i);
    split(last);
  });
}

template <class V>
void pack_band(const BandJob<typename V::scalar>& job) {
  const auto clamped = [&](int64_t row) { return row < 0 ? 0 : row < job.rows ? row : job.rows; };
  const int64_t first = clamped(-job.first_row), end = clamped(job.height - job.first_row);
  for (int64_t phase = 0; phase < job.col_step; ++phase) {
    typename V::scalar* const packed = job.packed + phase * job.phase_stride;
    set_zero_vectors<V>(packed, first * job.packed_stride);
    set_zero_vectors<V>(packed + end * job.packed_stride, (job.rows - end) * job.packed_stride);
  }
  if (job.col_step == 1) {
    copy_rows<V>(job, first, end);
  } else {
    split_rows<V>(job, first, end);
  }
}

// What the tiles of one plane share.
template <class V>
struct BandSums {
  const typename V::scalar* packed;
  const BandTaps& taps;
  const typename V::scalar* values;
  typename V::scalar bias;
  const PlaneRows<typename V::scalar>& out;
};

// Fewer columns than a vector: it may be stored whole where the next rows follow at once, for they are written later.
template <class V>
inline void store_narrow(const PlaneRows<typename V::scalar>& out, int64_t row, typename V::reg sum) {
  const bool joined = out.row_stride == out.cols && row * out.cols + V::lanes <= out.rows * out.cols;
  typename V::scalar* to = out.data + row * out.row_stride;
  if (joined) {
    V::store(to, sum);
  } else {
    V::store_partial(to, sum, static_cast<int>(out.cols));
  }
}

// A tile of Rows rows, each Cols vectors wide.
template <class V, Activation activation, int Rows, int Cols>
inline void band_tile(const BandSums<V>& band, int64_t row, int64_t col) {
  using Scalar = typename V::scalar;
  using reg = typename V::reg;
  constexpr int lanes = V::lanes;
  const int64_t row_stride = band.taps.row_stride;
  const Scalar* const packed = band.packed + row * row_stride + col;
  reg acc[Rows * Cols];
#pragma GCC unroll 32
  for (int i = 0; i < Rows * Cols; ++i) acc[i] = V::broadcast(band.bias);
  for (int64_t k = 0; k < band.taps.count; ++k) {
    const reg value = V::broadcast(band.values[k]);
    const Scalar* const from = packed + band.taps.offsets[k];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < Cols; ++c) {
        acc[r * Cols + c] = V::fma(value, V::load(from + r * row_stride + c * lanes), acc[r * Cols + c]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Cols; ++c) {
      const reg sum = activation == Activation::relu ? V::relu(acc[r * Cols + c]) : acc[r * Cols + c];
      if (Cols == 1 && band.out.cols < lanes) {
        store_narrow<V>(band.out, row + r, sum);
      } else {
        V::store(band.out.data + (row + r) * band.out.row_stride + col + c * lanes, sum);
      }
    }
  }
}

// All rows of Cols vectors of columns. The last tile overlaps the one before: to sum some outputs twice is cheaper than smaller
// tiles.
template <class V, Activation activation, int Rows, int Cols>
inline void band_columns(const BandSums<V>& band, int64_t col) {
  if constexpr (Rows > 1) {
    if (band.out.rows < Rows) return band_columns<V, activation, Rows / 2, Cols>(band, col);
  }
  for (int64_t row = 0; row < band.out.rows; row += Rows) {
    const int64_t last = band.out.rows - Rows;
    band_tile<V, activation, Rows, Cols>(band, row < last ? row : last, col);
  }
}

// As many rows as registers hold, but no more than seven: images have often a multiple of that.
template <class V>
constexpr int rows_at_once(int cols) {
  const int rows = (V::max_vectors + 2) / cols;
  return rows < 7 ? rows : 7;
}

template <class V, Activation activation>
void band_sums_activated(const BandSums<V>& band) {
  constexpr int most = 4;
  const int64_t cols = band.out.cols, vectors = (cols + V::lanes - 1) / V::lanes;
  // Columns that fill no whole vectors need a second chunk, which overlaps the first.
  int64_t chunks = (vectors + most - 1) / most;
  if (chunks == 1 && vectors > 1 && cols % V::lanes) chunks = 2;
  int64_t vector = 0;
  for (; chunks > 0; --chunks) {
    const int64_t width = (vectors - vector + chunks - 1) / chunks;
    int64_t col = vector * V::lanes;
    if (vectors > 1 && col > cols - width * V::lanes) col = cols - width * V::lanes;
    vector += width;
    switch (width) {
      case 1:
        band_columns<V, activation, rows_at_once<V>(1), 1>(band, col);
        break;
      case 2:
        band_columns<V, activation, rows_at_once<V>(2), 2>(band, col);
        break;
      case 3:
        band_columns<V, activation, rows_at_once<V>(3), 3>(band, col);
        break;
      case 4:
        band_columns<V, activation, rows_at_once<V>(4), 4>(band, col);
        break;
    }
  }
}

template <class V>
void band_sums(const typename V::scalar* packed, const BandTaps& taps, const typename V::scalar* values, typename V::scalar bias,
               Activation activation, const PlaneRows<typename V::scalar>& out) {
  const BandSums<V> band = {packed, taps, values, bias, out};
  switch (activation) {
    case Activation::none:
      return band_sums_activated<V, Activation::none>(band);
    case Activation::relu:
      return band_sums_activated<V, Activation::relu>(band);
  }
}

template <class Scalar>
void interleave(const Scalar* phases, int64_t phase_stride, int64_t row_stride, const PlaneRows<Scalar>& out) {
  for (int64_t row = 0; row < out.rows; ++row) {
    const Scalar* const even = phases + row * row_stride;
    const Scalar* const odd = even + phase_stride;
    Scalar* const to = out.data + row * out.row_stride;
    for (int64_t i = 0; i < out.cols / 2; ++i) {
      to[2 * i] = even[i];
      to[2 * i + 1] = odd[i];
    }
    if (out.cols % 2) to[out.cols - 1] = even[out.cols / 2];
  }
}

// Count taps at a time; where they are few, several rows are summed beside each other: eight sums in all hide the latency.
template <class V, int Count>
inline void dots_of(const typename V::scalar* packed, const int32_t* offsets, int64_t row_stride,
                    const PlaneRows<const typename V::scalar>& grad, typename V::scalar* grad_values) {
  using Scalar = typename V::scalar;
  using reg = typename V::reg;
  constexpr int lanes = V::lanes, rows = 8 / Count;
  reg acc[rows * Count];
#pragma GCC unroll 8
  for (int i = 0; i < rows * Count; ++i) acc[i] = V::zero();
  const Scalar* from[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) from[i] = packed + offsets[i];
  const auto add_rows = [&](auto together, int64_t row) {
    const Scalar* const g = grad.data + row * grad.row_stride;
    const int64_t at = row * row_stride;
    int64_t col = 0;
    for (; col + lanes <= grad.cols; col += lanes) {
#pragma GCC unroll 8
      for (int r = 0; r < together.rows; ++r) {
        const reg some = V::load(g + r * grad.row_stride + col);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
          acc[r * Count + i] = V::fma(some, V::load(from[i] + at + r * row_stride + col), acc[r * Count + i]);
        }
      }
    }
    if (col == grad.cols) return;
    const int rest = static_cast<int>(grad.cols - col);
#pragma GCC unroll 8
    for (int r = 0; r < together.rows; ++r) {
      const reg some = V::load_partial(g + r * grad.row_stride + col, rest);
#pragma GCC unroll 8
      for (int i = 0; i < Count; ++i) {  // the packed elements after the last may be NaN
        acc[r * Count + i] = V::fma(some, V::load_first(from[i] + at + r * row_stride + col, rest), acc[r * Count + i]);
      }
    }
  };
  int64_t row = 0;
  for (; row + rows <= grad.rows; row += rows) add_rows(Together<rows>(), row);
  for (; row < grad.rows; ++row) add_rows(Together<1>(), row);
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 8
    for (int r = 1; r < rows; ++r) acc[i] = V::add(acc[i], acc[r * Count + i]);
    grad_values[i] += V::sum(acc[i]);
  }
}

template <class V>
void band_dots(const typename V::scalar* packed, const BandTaps& taps, const PlaneRows<const typename V::scalar>& grad,
               typename V::scalar* grad_values) {
  const int32_t* offsets = taps.offsets;
  const int64_t row_stride = taps.row_stride;
  int64_t k = 0;
  for (; k + 8 <= taps.count; k += 8) dots_of<V, 8>(packed, offsets + k, row_stride, grad, grad_values + k);
  if (k + 4 <= taps.count) {
    dots_of<V, 4>(packed, offsets + k, row_stride, grad, grad_values + k);
    k += 4;
  }
  if (k + 2 <= taps.count) {
    dots_of<V, 2>(packed, offsets + k, row_stride, grad, grad_values + k);
    k += 2;
  }
  if (k < taps.count) dots_of<V, 1>(packed, offsets + k, row_stride, grad, grad_values + k);
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
