// A linear layer on one sample: each row's nonzeros against their elements of the input.
//
// A row's sum depends on the row and its matrix alone, in order too, not on the job that it is part of.
#pragma once

#include "kernels/activate.h"
#include "kernels/bit_rows.h"
#include "kernels/interface.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

template <class Scalar>
inline void put(const RowResults<Scalar>& to, int64_t row, Scalar sum) {
  to.out[row * to.out_stride] = activate(to.activation, to.bias ? to.bias[row * to.bias_stride] + sum : sum);
}

// How far ahead to ask for values and columns: beyond the caches the hardware alone reads them at half the speed.
constexpr int64_t kValuesAhead = 512, kColumnsAhead = 1024;

// The last vector begins where it ends with the row, and adds only what the others left: a loop over the rest would end where
// no branch predictor foresees it.
template <class V, class Index>
inline typename V::scalar row_dot(const Index* col_idx, int64_t count, const typename V::scalar* values,
                                  const typename V::scalar* x) {
  using reg = typename V::reg;
  constexpr int lanes = V::lanes;
  if (count < lanes) {
    typename V::scalar sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += values[k] * x[col_idx[k]];
    return sum;
  }
  reg acc0 = V::zero(), acc1 = V::zero();
  int64_t k = 0;
  for (; k + 2 * lanes <= count; k += 2 * lanes) {
    __builtin_prefetch(values + k + kValuesAhead);
    __builtin_prefetch(col_idx + k + kColumnsAhead);
    acc0 = V::fma(V::load(values + k), V::gather(x, col_idx + k), acc0);
    acc1 = V::fma(V::load(values + k + lanes), V::gather(x, col_idx + k + lanes), acc1);
  }
  if (k + lanes <= count) {
    acc0 = V::fma(V::load(values + k), V::gather(x, col_idx + k), acc0);
    k += lanes;
  }
  const uint32_t rest = ((1u << lanes) - 1) & ~((1u << (k + lanes - count)) - 1);
  k = count - lanes;
  acc1 = V::fma_where(V::places_of(rest), V::load(values + k), V::gather(x, col_idx + k), acc1);
  return V::sum(V::add(acc0, acc1));
}

constexpr int64_t kProducts = 1024;

// Short rows leave vectors half empty. So their products are formed for as many rows as fit, without regard to where one ends,
// and summed from there, eight rows at once.
template <class V, class Index>
void short_rows_dot(const RowsJob<Index>& job, const typename V::scalar* values, const typename V::scalar* x,
                    const RowResults<typename V::scalar>& results) {
  using Scalar = typename V::scalar;
  using reg = typename V::reg;
  constexpr int lanes = V::lanes;
  constexpr int64_t longest = 16 * lanes;
  alignas(64) Scalar products[kProducts + lanes];
  const int32_t* row_ptr = job.row_ptr;
  int64_t row = job.row_begin;
  while (row < job.row_end) {
    const int64_t start = row_ptr[row];
    const Scalar* const own = values + (start - row_ptr[job.row_begin]);
    if (row_ptr[row + 1] - start > longest) {
      put(results, row, row_dot<V>(job.col_idx + start, row_ptr[row + 1] - start, own, x));
      ++row;
      continue;
    }
    int64_t last = row + 1;
    while (last < job.row_end && row_ptr[last + 1] - start <= kProducts && row_ptr[last + 1] - row_ptr[last] <= longest) ++last;
    const int64_t count = row_ptr[last] - start;
    int64_t k = 0;
    for (; k + lanes <= count; k += lanes) {
      V::store(products + k, V::mul(V::load(own + k), V::gather(x, job.col_idx + start + k)));
    }
    for (; k < count; ++k) products[k] = own[k] * x[job.col_idx[start + k]];
    for (; row < last; row += 8) {
      const int64_t rows = last - row < 8 ? last - row : 8;
      reg sums[8];
      for (int64_t i = 0; i < 8; ++i) {
        sums[i] = V::zero();
        if (i >= rows) continue;
        const Scalar* p = products + (row_ptr[row + i] - start);
        int64_t rest = row_ptr[row + i + 1] - row_ptr[row + i];
        for (; rest > lanes; rest -= lanes, p += lanes) sums[i] = V::add(sums[i], V::load(p));
        sums[i] = V::add(sums[i], V::load_first(p, static_cast<int>(rest)));
      }
      Scalar totals[8];
      V::sum_each(sums, totals);
      for (int64_t i = 0; i < rows; ++i) put(results, row + i, totals[i]);
    }
    row = last;
  }
}

template <class V, class Index>
void rows_dot(const RowsJob<Index>& job, const typename V::scalar* values, const typename V::scalar* x,
              const RowResults<typename V::scalar>& results) {
  if (job.mean_nonzeros < V::short_rows) return short_rows_dot<V>(job, values, x, results);
  for (int64_t row = job.row_begin; row < job.row_end; ++row) {
    const int64_t first = job.row_ptr[row], count = job.row_ptr[row + 1] - first;
    put(results, row, row_dot<V>(job.col_idx + first, count, values + (first - job.row_ptr[job.row_begin]), x));
  }
}

template <class V>
void rows_dot_bits(const BitRowsJob& job, const typename V::scalar* values, const typename V::scalar* x,
                   const RowResults<typename V::scalar>& results) {
  using Scalar = typename V::scalar;
  each_rows(job.row_begin, job.row_end, [&](auto together, int64_t row) {
    constexpr int rows = decltype(together)::rows;
    const uint8_t* bits[rows];
    const Scalar* p[rows];
    typename V::reg sums[rows];
    for (int i = 0; i < rows; ++i) {
      bits[i] = job.bits + (row + i) * job.row_bytes;
      p[i] = values + (job.row_ptr[row + i] - job.row_ptr[job.row_begin]);
      sums[i] = V::zero();
    }
    for (int64_t col = 0; col < job.cols; col += V::lanes) {
      const typename V::reg in = V::load(x + col);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const uint32_t kept = bits_at<V::lanes>(bits[i], col);
        const typename V::places at = V::places_of(kept);
        sums[i] = V::fma_where(at, V::expand(p[i], at), in, sums[i]);
        p[i] += V::count(kept);
      }
    }
    for (int i = 0; i < rows; ++i) put(results, row + i, V::sum(sums[i]));
  });
}

template <class Scalar>
void permute(const int32_t* order, int64_t count, const Scalar* source, Scalar* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = source[order[i]];
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
