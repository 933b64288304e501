// A linear layer on one sample: each row's nonzeros against gathered elements of the input.
#pragma once

#include "kernels/activate.h"
#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class V, class Index>
void rows_dot(const RowsJob<typename V::scalar, Index>& job, const typename V::scalar* values, const typename V::scalar* x,
              const typename V::scalar* bias, int64_t bias_stride, typename V::scalar* out, int64_t out_stride) {
  using reg = typename V::reg;
  constexpr int lanes = V::lanes;
  for (int64_t row = job.row_begin; row < job.row_end; ++row) {
    int64_t k = job.row_ptr[row];
    const int64_t end = job.row_ptr[row + 1];
    reg acc0 = V::zero(), acc1 = V::zero();
    for (; k + 2 * lanes <= end; k += 2 * lanes) {
      acc0 = V::fma(V::load(values + k), V::gather(x, job.col_idx + k), acc0);
      acc1 = V::fma(V::load(values + k + lanes), V::gather(x, job.col_idx + k + lanes), acc1);
    }
    if (k + lanes <= end) {
      acc0 = V::fma(V::load(values + k), V::gather(x, job.col_idx + k), acc0);
      k += lanes;
    }
    if (k < end) {
      const int rest = static_cast<int>(end - k);
      acc1 = V::fma(V::load_partial(values + k, rest), V::gather_partial(x, job.col_idx + k, rest), acc1);
    }
    const typename V::scalar sum = V::sum(V::add(acc0, acc1));
    out[row * out_stride] = activate(job.activation, bias ? bias[row * bias_stride] + sum : sum);
  }
}

template <class Scalar>
void permute(const int32_t* order, int64_t count, const Scalar* source, Scalar* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = source[order[i]];
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
