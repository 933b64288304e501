// Copies between flat tiles and strided images: results out, gradients in.
#pragma once

#include "kernels/interface.h"
#include "kernels/pack.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// Calls visit(flat position, outer offset) for each row of outputs of a tile.
template <class Job, class Visit>
inline void for_each_row(const Job& job, Visit visit) {
  for (int64_t image = 0; image < job.shape.images; ++image) {
    for (int64_t row = 0; row < job.shape.rows; ++row) {
      visit(image * job.shape.image_stride + row * job.shape.row_stride, image * job.image_stride + row * job.row_stride);
    }
  }
}

// Sixteen channels at a time keep the cache lines of both sides in use when channels lie side by side.
constexpr int64_t kChannelChunk = 16;

// Calls visit(first channel, count) for chunks of channels.
template <class Visit>
inline void for_each_chunk(int64_t channels, Visit visit) {
  for (int64_t first = 0; first < channels; first += kChannelChunk) {
    visit(first, channels - first < kChannelChunk ? channels - first : kChannelChunk);
  }
}

// The sum of one output over the shifts.
template <class Job, class Scalar>
inline Scalar output(const Job& job, const Scalar* from, Scalar bias) {
  Scalar sum = from[job.shifts[0]];
  for (int64_t s = 1; s < job.num_shifts; ++s) sum += from[s * job.flat_stride + job.shifts[s]];
  return sum + bias;
}

template <class V, class Job>
inline typename V::reg outputs(const Job& job, const typename V::scalar* from, typename V::reg bias) {
  typename V::reg sum = V::load(from + job.shifts[0]);
  for (int64_t s = 1; s < job.num_shifts; ++s) sum = V::add(sum, V::load(from + s * job.flat_stride + job.shifts[s]));
  return V::add(sum, bias);
}

template <class V>
void store(const TileJob<const typename V::scalar, typename V::scalar>& job, const typename V::scalar* bias,
           int64_t bias_stride) {
  using Scalar = typename V::scalar;
  const int64_t channel_flat = job.num_shifts * job.flat_stride;
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for_each_chunk(job.channels, [&](int64_t first, int64_t count) {
      for_each_row(job, [&](int64_t flat, int64_t outer) {
        for (int64_t c = 0; c < job.shape.cols; ++c) {
          const Scalar* from = job.flat + first * channel_flat + flat + c;
          Scalar* to = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) {
            to[i] = output(job, from + i * channel_flat, bias ? bias[(first + i) * bias_stride] : Scalar{0});
          }
        }
      });
    });
    return;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const Scalar add = bias ? bias[channel * bias_stride] : Scalar{0};
    const typename V::reg add_all = V::broadcast(add);
    for_each_row(job, [&](int64_t flat, int64_t outer) {
      const Scalar* from = job.flat + channel * channel_flat + flat;
      Scalar* to = job.outer + channel * job.channel_stride + outer;
      if (job.col_stride != 1) {
        for (int64_t c = 0; c < job.shape.cols; ++c) to[c * job.col_stride] = output(job, from + c, add);
        return;
      }
      int64_t c = 0;
      for (; c + V::lanes <= job.shape.cols; c += V::lanes) V::store(to + c, outputs<V>(job, from + c, add_all));
      // The sums have room for a whole vector past their end.
      if (c < job.shape.cols) {
        V::store_partial(to + c, outputs<V>(job, from + c, add_all), static_cast<int>(job.shape.cols - c));
      }
    });
  }
}

template <class V>
void load(const TileJob<typename V::scalar, const typename V::scalar>& job) {
  using Scalar = typename V::scalar;
  const int64_t channel_flat = job.num_shifts * job.flat_stride;
  set_zero(job.flat, job.channels * channel_flat);
  for (int64_t s = 0; s < job.num_shifts; ++s) {
    Scalar* flat_of_shift = job.flat + s * job.flat_stride + job.shifts[s];
    if (job.channel_stride == 1 && job.col_stride != 1) {
      for_each_chunk(job.channels, [&](int64_t first, int64_t count) {
        for_each_row(job, [&](int64_t flat, int64_t outer) {
          for (int64_t c = 0; c < job.shape.cols; ++c) {
            Scalar* to = flat_of_shift + first * channel_flat + flat + c;
            const Scalar* from = job.outer + outer + c * job.col_stride + first;
            for (int64_t i = 0; i < count; ++i) to[i * channel_flat] = from[i];
          }
        });
      });
      continue;
    }
    for (int64_t channel = 0; channel < job.channels; ++channel) {
      for_each_row(job, [&](int64_t flat, int64_t outer) {
        copy_strided(job.outer + channel * job.channel_stride + outer, job.col_stride, job.shape.cols,
                     flat_of_shift + channel * channel_flat + flat);
      });
    }
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
