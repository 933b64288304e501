// The gradient to one sample of a linear layer: multiples of the rows, added up.
#pragma once

#include "kernels/bit_rows.h"
#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V, class Index>
void rows_add(const RowsJob<Index>& job, const typename V::scalar* values, const typename V::scalar* g, int64_t g_stride,
              typename V::scalar* sums) {
  const typename V::scalar* p = values;
  for (int64_t row = job.row_begin; row < job.row_end; ++row) {
    const typename V::scalar factor = g[row * g_stride];
    const Index* at = job.col_idx + job.row_ptr[row];
    int64_t rest = job.row_ptr[row + 1] - job.row_ptr[row];
    for (; rest >= 4; rest -= 4, at += 4, p += 4) V::add_four(sums, at, factor, p);
    for (; rest > 0; --rest) sums[*at++] += factor * *p++;
  }
}

template <class V>
void rows_add_bits(const BitRowsJob& job, const typename V::scalar* values, const typename V::scalar* g, int64_t g_stride,
                   typename V::scalar* sums) {
  each_rows(job.row_begin, job.row_end, [&](auto together, int64_t row) {
    constexpr int rows = decltype(together)::rows;
    const uint8_t* bits[rows];
    const typename V::scalar* p[rows];
    typename V::reg factors[rows];
    for (int i = 0; i < rows; ++i) {
      bits[i] = job.bits + (row + i) * job.row_bytes;
      p[i] = values + (job.row_ptr[row + i] - job.row_ptr[job.row_begin]);
      factors[i] = V::broadcast(g[(row + i) * g_stride]);
    }
    for (int64_t col = 0; col < job.cols; col += V::lanes) {
      typename V::reg sum = V::load(sums + col);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const uint32_t kept = bits_at<V::lanes>(bits[i], col);
        const typename V::places at = V::places_of(kept);
        sum = V::fma_where(at, V::expand(p[i], at), factors[i], sum);
        p[i] += V::count(kept);
      }
      V::store(sums + col, sum);
    }
  });
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
