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

// One output. Where V::alignment is 1, the only shift is 0.
template <class V, Activation activation, class Scalar>
inline Scalar output(const Epilogue<Scalar>& epilogue, const Scalar* from, int64_t flat_stride, Scalar bias) {
  Scalar sum = V::alignment > 1 ? from[epilogue.shifts[0]] : *from;
  for (int64_t s = 1; V::alignment > 1 && s < epilogue.num_shifts; ++s) sum += from[s * flat_stride + epilogue.shifts[s]];
  return activate<activation>(sum + bias);
}

// The sums of a channel, one vector of outputs at a time. Shifts: how many there are; 0: any number.
template <class V, Activation activation, int Shifts>
class Outputs {
 public:
  Outputs(const Epilogue<typename V::scalar>& epilogue, int64_t flat_stride) : epilogue_(epilogue), flat_stride_(flat_stride) {
    for (int64_t s = 0; s < Shifts; ++s) places_[s] = V::alignment > 1 ? s * flat_stride + epilogue.shifts[s] : 0;
  }

  [[gnu::always_inline]] typename V::reg at(const typename V::scalar* from, typename V::reg bias) const {
    typename V::reg sum;
    if constexpr (Shifts > 0) {
      sum = V::load(from + places_[0]);
      for (int s = 1; s < Shifts; ++s) sum = V::add(sum, V::load(from + places_[s]));
    } else {
      sum = V::load(from + epilogue_.shifts[0]);
      for (int64_t s = 1; s < epilogue_.num_shifts; ++s) {
        sum = V::add(sum, V::load(from + s * flat_stride_ + epilogue_.shifts[s]));
      }
    }
    sum = V::add(sum, bias);
    return activation == Activation::relu ? V::relu(sum) : sum;
  }

 private:
  const Epilogue<typename V::scalar>& epilogue_;
  int64_t flat_stride_;
  int64_t places_[Shifts > 0 ? Shifts : 1];
};

// A row of outputs that do not lie side by side.
template <class V, class Outputs>
void store_apart(const Outputs& outputs, const typename V::scalar* from, typename V::reg bias, int64_t cols, int64_t stride,
                 typename V::scalar* to) {
  constexpr int64_t lanes = V::lanes;
  alignas(64) typename V::scalar some[lanes];
  for (int64_t c = 0; c < cols; c += lanes) {
    V::store(some, outputs.at(from + c, bias));
    const int64_t count = cols - c < lanes ? cols - c : lanes;
    for (int64_t i = 0; i < count; ++i) to[(c + i) * stride] = some[i];
  }
}

// Channel by channel.
template <class V, Activation activation, int Shifts>
void store_rows(const TileJob<const typename V::scalar, typename V::scalar>& job, const Epilogue<typename V::scalar>& epilogue) {
  using Scalar = typename V::scalar;
  const Outputs<V, activation, Shifts> outputs(epilogue, job.flat_stride);
  // Copies: a vector that is stored could change the job, as far as the compiler knows.
  const TileShape shape = job.shape;
  const int64_t cols = shape.cols, image_stride = job.image_stride, row_stride = job.row_stride, col_stride = job.col_stride;
  const Scalar* flat_channel = job.flat;
  Scalar* channel = job.outer;
  const Scalar none = 0;
  const Scalar* bias_at = epilogue.bias ? epilogue.bias : &none;
  const int64_t bias_stride = epilogue.bias ? epilogue.bias_stride : 0;
  const int64_t flat_stride = epilogue.num_shifts * job.flat_stride, channel_stride = job.channel_stride;
  for (int64_t left = job.channels; left > 0; --left, flat_channel += flat_stride, channel += channel_stride) {
    const typename V::reg bias = V::broadcast(*bias_at);
    bias_at += bias_stride;
    const Scalar* flat_image = flat_channel;
    Scalar* image = channel;
    for (int64_t n = 0; n < shape.images; ++n, flat_image += shape.image_stride, image += image_stride) {
      const Scalar* from = flat_image;
      Scalar* to = image;
      for (int64_t row = 0; row < shape.rows; ++row, from += shape.row_stride, to += row_stride) {
        if (col_stride != 1) {
          store_apart<V>(outputs, from, bias, cols, col_stride, to);
        } else if (cols < V::lanes) {
          V::store_partial(to, outputs.at(from, bias), static_cast<int>(cols));
        } else {
          for_each_pair<V>(cols, [&](int64_t i, int64_t j) {
            const typename V::reg one = outputs.at(from + i, bias), other = outputs.at(from + j, bias);
            V::store(to + i, one);
            V::store(to + j, other);
          });
        }
      }
    }
  }
}

template <class V, Activation activation>
void store_activated(const TileJob<const typename V::scalar, typename V::scalar>& job,
                     const Epilogue<typename V::scalar>& epilogue) {
  using Scalar = typename V::scalar;
  const int64_t channel_flat = epilogue.num_shifts * job.flat_stride;
  if (job.channel_stride == 1 && job.col_stride != 1) {
    for_each_chunk(job.channels, [&](int64_t first, int64_t count) {
      for_each_row(job, [&](int64_t flat, int64_t outer) {
        for (int64_t c = 0; c < job.shape.cols; ++c) {
          const Scalar* from = job.flat + first * channel_flat + flat + c;
          Scalar* to = job.outer + outer + c * job.col_stride + first;
          for (int64_t i = 0; i < count; ++i) {
            const Scalar bias = epilogue.bias ? epilogue.bias[(first + i) * epilogue.bias_stride] : Scalar{0};
            to[i] = output<V, activation>(epilogue, from + i * channel_flat, job.flat_stride, bias);
          }
        }
      });
    });
    return;
  }
  if (V::alignment == 1 || epilogue.num_shifts == 1) return store_rows<V, activation, 1>(job, epilogue);
  if (epilogue.num_shifts == 3) return store_rows<V, activation, 3>(job, epilogue);  // of most kernels
  store_rows<V, activation, 0>(job, epilogue);
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
