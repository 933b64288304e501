// Copies between flat tiles and strided images: results out, gradients in.
#pragma once

#include "kernels/interface.h"
#include "kernels/pack.h"

namespace mpl_sparse {
namespace MPL_SPARSE_TARGET {

// Calls visit(flat position, outer offset, columns) for each row of outputs of a tile.
template <class Job, class Visit>
inline void for_each_row(const Job& job, Visit visit) {
  for (int64_t image = 0; image < job.shape.images; ++image) {
    for (int64_t row = 0; row < job.shape.rows; ++row) {
      visit(image * job.shape.image_stride + row * job.shape.row_stride, image * job.image_stride + row * job.row_stride,
            job.shape.cols);
    }
  }
}

// Sixteen channels at a time keep the cache lines of both sides in use when channels lie side by side.
constexpr int64_t kChannelChunk = 16;

template <class Scalar>
void store(const TileJob<const Scalar, Scalar>& job) {
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for (int64_t first = 0; first < job.channels; first += kChannelChunk) {
      const int64_t count = job.channels - first < kChannelChunk ? job.channels - first : kChannelChunk;
      for_each_row(job, [&](int64_t flat, int64_t outer, int64_t cols) {
        for (int64_t c = 0; c < cols; ++c) {
          const Scalar* from = job.flat + first * job.flat_stride + flat + c;
          Scalar* to = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) to[i] = from[i * job.flat_stride];
        }
      });
    }
    return;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    for_each_row(job, [&](int64_t flat, int64_t outer, int64_t cols) {
      const Scalar* from = job.flat + channel * job.flat_stride + flat;
      Scalar* to = job.outer + channel * job.channel_stride + outer;
      if (job.col_stride == 1) {
        for (int64_t c = 0; c < cols; ++c) to[c] = from[c];
      } else {
        for (int64_t c = 0; c < cols; ++c) to[c * job.col_stride] = from[c];
      }
    });
  }
}

template <class Scalar>
void load(const TileJob<Scalar, const Scalar>& job) {
  set_zero(job.flat, job.channels * job.flat_stride);
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for (int64_t first = 0; first < job.channels; first += kChannelChunk) {
      const int64_t count = job.channels - first < kChannelChunk ? job.channels - first : kChannelChunk;
      for_each_row(job, [&](int64_t flat, int64_t outer, int64_t cols) {
        for (int64_t c = 0; c < cols; ++c) {
          Scalar* to = job.flat + first * job.flat_stride + flat + c;
          const Scalar* from = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) to[i * job.flat_stride] = from[i];
        }
      });
    }
    return;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    for_each_row(job, [&](int64_t flat, int64_t outer, int64_t cols) {
      copy_strided(job.outer + channel * job.channel_stride + outer, job.col_stride, cols,
                   job.flat + channel * job.flat_stride + flat);
    });
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
