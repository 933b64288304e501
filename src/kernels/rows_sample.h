// The gradient at the nonzeros of a linear layer for one sample: an outer product, at the nonzeros only.
#pragma once

#include "kernels/bit_rows.h"
#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V, class Index>
void rows_sample(const RowsJob<Index>& job, const typename V::scalar* g, int64_t g_stride, const typename V::scalar* x,
                 typename V::scalar* grad_values) {
  constexpr int lanes = V::lanes;
  typename V::scalar* p = grad_values;
  for (int64_t row = job.row_begin; row < job.row_end; ++row) {
    const typename V::scalar factor = g[row * g_stride];
    const Index* at = job.col_idx + job.row_ptr[row];
    int64_t rest = job.row_ptr[row + 1] - job.row_ptr[row];
    for (; rest >= lanes; rest -= lanes, at += lanes, p += lanes) V::store(p, V::mul(V::broadcast(factor), V::gather(x, at)));
    for (; rest > 0; --rest) *p++ = factor * x[*at++];
  }
}

// One row after the other: what a row writes past its end is the next one's to overwrite.
template <class V>
void rows_sample_bits(const BitRowsJob& job, const typename V::scalar* g, int64_t g_stride, const typename V::scalar* x,
                      typename V::scalar* grad_values) {
  typename V::scalar* p = grad_values;
  for (int64_t row = job.row_begin; row < job.row_end; ++row) {
    const uint8_t* bits = job.bits + row * job.row_bytes;
    const typename V::reg factor = V::broadcast(g[row * g_stride]);
    for (int64_t col = 0; col < job.cols; col += V::lanes) {
      const uint32_t kept = bits_at<V::lanes>(bits, col);
      V::compress_to(p, V::mul(factor, V::load(x + col)), kept);
      p += V::count(kept);
    }
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
