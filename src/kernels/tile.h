// Copies between flat tiles and strided images: results out, gradients in.
#pragma once

#include "kernels/activate.h"
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

// One output, or a vector of them. Where V::alignment is 1, the only shift is 0.
template <class V, Activation activation, class Scalar>
inline Scalar output(const Epilogue<Scalar>& epilogue, const Scalar* from, int64_t flat_stride, Scalar bias) {
  Scalar sum = V::alignment > 1 ? from[epilogue.shifts[0]] : *from;
  for (int64_t s = 1; V::alignment > 1 && s < epilogue.num_shifts; ++s) sum += from[s * flat_stride + epilogue.shifts[s]];
  return activate<activation>(sum + bias);
}

template <class V, Activation activation>
inline typename V::reg outputs(const Epilogue<typename V::scalar>& epilogue, const typename V::scalar* from, int64_t flat_stride,
                               typename V::reg bias) {
  typename V::reg sum = V::load(V::alignment > 1 ? from + epilogue.shifts[0] : from);
  for (int64_t s = 1; V::alignment > 1 && s < epilogue.num_shifts; ++s) {
    sum = V::add(sum, V::load(from + s * flat_stride + epilogue.shifts[s]));
  }
  sum = V::add(sum, bias);
  return activation == Activation::relu ? V::relu(sum) : sum;
}

template <class V, Activation activation>
void store_activated(const TileJob<const typename V::scalar, typename V::scalar>& given,
                     const Epilogue<typename V::scalar>& results) {
  using Scalar = typename V::scalar;
  // Stores through vectors might change what is only referred to.
  const TileJob<const Scalar, Scalar> job = given;
  const Scalar none = 0;
  Epilogue<Scalar> epilogue = results;
  if (!epilogue.bias) epilogue.bias = &none, epilogue.bias_stride = 0;
  const int64_t channel_flat = epilogue.num_shifts * job.flat_stride;
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for_each_chunk(job.channels, [&](int64_t first, int64_t count) {
      const Scalar* bias = epilogue.bias + first * epilogue.bias_stride;
      for_each_row(job, [&](int64_t flat, int64_t outer) {
        for (int64_t c = 0; c < job.shape.cols; ++c) {
          const Scalar* from = job.flat + first * channel_flat + flat + c;
          Scalar* to = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) {
            to[i] = output<V, activation>(epilogue, from + i * channel_flat, job.flat_stride, bias[i * epilogue.bias_stride]);
          }
        }
      });
    });
    return;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const typename V::reg add_all = V::broadcast(epilogue.bias[channel * epilogue.bias_stride]);
    for_each_row(job, [&](int64_t flat, int64_t outer) {
      const Scalar* from = job.flat + channel * channel_flat + flat;
      Scalar* to = job.outer + channel * job.channel_stride + outer;
      if (job.col_stride != 1) {
        alignas(64) Scalar some[V::lanes];
        for (int64_t c = 0; c < job.shape.cols; c += V::lanes) {
          V::store(some, outputs<V, activation>(epilogue, from + c, job.flat_stride, add_all));
          const int64_t count = job.shape.cols - c < V::lanes ? job.shape.cols - c : V::lanes;
          for (int64_t i = 0; i < count; ++i) to[(c + i) * job.col_stride] = some[i];
        }
        return;
      }
      const auto at = [&](int64_t c) { return outputs<V, activation>(epilogue, from + c, job.flat_stride, add_all); };
      if (job.shape.cols < V::lanes) return V::store_partial(to, at(0), static_cast<int>(job.shape.cols));
      for_each_pair<V>(job.shape.cols, [&](int64_t i, int64_t j) {
        const typename V::reg one = at(i), other = at(j);
        V::store(to + i, one);
        V::store(to + j, other);
      });
    });
  }
}

template <class V>
void store(const TileJob<const typename V::scalar, typename V::scalar>& job, const Epilogue<typename V::scalar>& epilogue) {
  switch (epilogue.activation) {
    case Activation::none:
      return store_activated<V, Activation::none>(job, epilogue);
    case Activation::relu:
      return store_activated<V, Activation::relu>(job, epilogue);
  }
}

template <class V>
void load(const TileJob<typename V::scalar, const typename V::scalar>& job) {
  using Scalar = typename V::scalar;
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for_each_chunk(job.channels, [&](int64_t first, int64_t count) {
      set_zero(job.flat + first * job.flat_stride, count * job.flat_stride);
      for_each_row(job, [&](int64_t flat, int64_t outer) {
        for (int64_t c = 0; c < job.shape.cols; ++c) {
          Scalar* to = job.flat + first * job.flat_stride + flat + c;
          const Scalar* from = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) to[i * job.flat_stride] = from[i];
        }
      });
    });
    return;
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    Scalar* to = job.flat + channel * job.flat_stride;
    set_zero(to, job.flat_stride);
    for_each_row(job, [&](int64_t flat, int64_t outer) {
      copy_strided(job.outer + channel * job.channel_stride + outer, job.col_stride, job.shape.cols, to + flat);
    });
  }
}

}  // namespace MPL_SPARSE_TARGET
}  // namespace mpl_sparse
