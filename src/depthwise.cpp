#include "depthwise.h"

#include <algorithm>
#include <vector>

#include "mpl_sparse/threads.h"
#include "workspace.h"

namespace mpl_sparse {
namespace {

constexpr int64_t kBandBytes = 16 * 1024;      // a packed band: half of a first-level cache
constexpr int64_t kLargestBand = 128 * 1024;   // one row of outputs must not need more
constexpr int64_t kSerialOutputs = 64 * 1024;  // below this, a thread costs more than it gains
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kMostStride = 2;
constexpr int64_t kMargin = 64;  // elements that a band may be read past its end; the first row is aligned to as many

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t size, int64_t step) { return ceil_div(size, step) * step; }
int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }
int64_t modulo(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

// One axis of a plane of outputs, which fall into phases as the stride of a gradient wants. Output j of phase p is element j *
// phases + p of the result; its tap k, if phase[k] == p, reads source element j * step + offset[k].
struct TapAxis {
  int64_t source, result;  // elements
  int64_t step, phases;
  std::vector<int64_t> phase, offset;

  int64_t outputs(int64_t of_phase) const { return std::max<int64_t>(0, ceil_div(result - of_phase, phases)); }
  int64_t least() const { return *std::min_element(offset.begin(), offset.end()); }
  int64_t most() const { return *std::max_element(offset.begin(), offset.end()); }
};

TapAxis forward_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  TapAxis axis{in, out, stride, 1, {}, {}};
  for (int64_t k = 0; k < kernel; ++k) {
    axis.phase.push_back(0);
    axis.offset.push_back(k * dilation - pad);
  }
  return axis;
}

// Input i takes part in output (i + pad - k * dilation) / stride, where that is whole.
TapAxis backward_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  TapAxis axis{out, in, 1, stride, {}, {}};
  for (int64_t k = 0; k < kernel; ++k) {
    axis.phase.push_back(modulo(k * dilation - pad, stride));
    axis.offset.push_back((axis.phase.back() + pad - k * dilation) / stride);
  }
  return axis;
}

TapAxis forward_rows(const Conv2dGeometry& g) {
  return forward_axis(g.in_height, g.out_height(), g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
}
TapAxis forward_cols(const Conv2dGeometry& g) {
  return forward_axis(g.in_width, g.out_width(), g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
}
TapAxis backward_rows(const Conv2dGeometry& g) {
  return backward_axis(g.in_height, g.out_height(), g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
}
TapAxis backward_cols(const Conv2dGeometry& g) {
  return backward_axis(g.in_width, g.out_width(), g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
}

// Where a band of source planes lies when it is packed: [plane][column phase][row][column], with zeros before the first row and
// after each one, which serve as those before the next.
struct Band {
  TapAxis rows, cols;
  int64_t top;                   // the first source row that output row 0 reads
  int64_t lead;                  // elements before the first packed row
  int64_t stride;                // between packed rows
  int64_t all_outputs, outputs;  // rows of outputs of a phase: of all bands, and of one
  int64_t phase_stride, plane_stride, elements;

  Band(TapAxis row_axis, TapAxis col_axis, int64_t planes, int64_t lanes, int64_t element_bytes)
      : rows(std::move(row_axis)), cols(std::move(col_axis)), top(rows.least()), all_outputs(rows.outputs(0)) {
    const int64_t width = ceil_div(cols.source, cols.step);
    const int64_t left = std::max<int64_t>(0, -floor_div(cols.least(), cols.step));
    const int64_t right = cols.outputs(0) - 1 + floor_div(cols.most(), cols.step) - (cols.source / cols.step - 1);
    lead = round_up(left, kMargin);
    stride = round_up(width + std::max(left, right), lanes);
    const int64_t row_bytes = planes * cols.step * stride * element_bytes, reach = rows.most() - top + 1;
    const int64_t fit = std::max<int64_t>(1, (kBandBytes / row_bytes - reach) / rows.step + 1);
    outputs = ceil_div(all_outputs, ceil_div(all_outputs, fit));
    phase_stride = source_rows(outputs) * stride;
    plane_stride = cols.step * phase_stride;
    elements = lead + planes * plane_stride + kMargin;
  }

  int64_t source_rows(int64_t of_outputs) const { return (of_outputs - 1) * rows.step + rows.most() - top + 1; }

  int32_t tap_offset(int64_t kernel_row, int64_t kernel_col) const {
    const int64_t col = cols.offset[kernel_col];
    return static_cast<int32_t>(modulo(col, cols.step) * phase_stride + (rows.offset[kernel_row] - top) * stride +
                                floor_div(col, cols.step));
  }

  // One for each position of the kernel, row-major.
  std::vector<int32_t> tap_offsets() const {
    std::vector<int32_t> offsets;
    for (size_t row = 0; row < rows.offset.size(); ++row) {
      for (size_t col = 0; col < cols.offset.size(); ++col) {
        offsets.push_back(tap_offset(static_cast<int64_t>(row), static_cast<int64_t>(col)));
      }
    }
    return offsets;
  }

  // Memory for a band, zero: it stays so between the rows.
  template <class Scalar>
  Scalar* memory() const {
    Scalar* packed = scratch<Scalar>(Scratch::packed, elements);
    std::fill_n(packed, elements, Scalar{0});
    return packed + lead;
  }

  template <class Scalar>
  void pack(const Kernels<Scalar>& kernel, const Scalar* plane, int64_t row_stride, int64_t first_output, int64_t of_outputs,
            Scalar* packed) const {
    kernel.pack_band({plane, row_stride, rows.source, cols.source, first_output * rows.step + top, source_rows(of_outputs),
                      cols.step, stride, phase_stride, packed});
  }
};

// Calls body(first output row, rows) for each band.
template <class Body>
void each_band(const Band& band, Body body) {
  for (int64_t first = 0; first < band.all_outputs; first += band.outputs) {
    body(first, std::min(band.outputs, band.all_outputs - first));
  }
}

// Calls body(image, channel) for the planes [begin, end) of all images.
template <class Body>
void each_plane(int64_t begin, int64_t end, int64_t channels, Body body) {
  int64_t image = begin / channels, channel = begin % channels;
  for (int64_t plane = begin; plane < end; ++plane) {
    body(image, channel);
    if (++channel == channels) {
      channel = 0;
      ++image;
    }
  }
}

// Calls body(begin, end) for shares of `items`.
template <class Body>
void share(int64_t items, int64_t outputs, int num_threads, Body body) {
  const int threads = outputs < kSerialOutputs ? 1 : num_threads;
  const int64_t parts = threads > 1 ? std::min(items, kTasksPerThread * threads) : 1;
  parallel_for(parts, threads, [&](int64_t part) { body(items * part / parts, items * (part + 1) / parts); });
}

template <class Scalar>
Scalar* plane_of(const Planes<Scalar>& planes, int64_t image, int64_t channel) {
  return planes.data + image * planes.image_stride + channel * planes.channel_stride;
}

// The taps of each row of the weight.
class RowTaps {
 public:
  RowTaps(const Band& band, const Pattern& pattern)
      : row_ptr_(pattern.row_ptr()), row_stride_(band.rows.step * band.stride), offsets_(pattern.nnz()) {
    const std::vector<int32_t> of_tap = band.tap_offsets();
    for (int64_t k = 0; k < pattern.nnz(); ++k) offsets_[k] = of_tap[pattern.col_idx()[k]];
  }

  BandTaps of(int64_t row) const { return {offsets_.data() + row_ptr_[row], row_ptr_[row + 1] - row_ptr_[row], row_stride_}; }
  bool none(int64_t first, int64_t end) const { return row_ptr_[first] == row_ptr_[end]; }

 private:
  const int32_t* const row_ptr_;
  const int64_t row_stride_;
  std::vector<int32_t> offsets_;
};

// The taps of each input channel, over all rows of the weight that read it, by the phase of the inputs that they meet.
template <class Scalar>
class ChannelTaps {
 public:
  ChannelTaps(const Band& band, const Pattern& pattern, const Scalar* values, int64_t multiplier)
      : phases_(band.rows.phases * band.cols.phases), row_stride_(band.rows.step * band.stride) {
    const std::vector<int32_t> of_tap = band.tap_offsets();
    std::vector<int64_t> phase_of_tap;
    for (int64_t row : band.rows.phase) {
      for (int64_t col : band.cols.phase) phase_of_tap.push_back(row * band.cols.phases + col);
    }
    offsets_.reserve(pattern.nnz());
    values_.reserve(pattern.nnz());
    bounds_.reserve(pattern.rows() / multiplier * phases_ + 1);
    bounds_.push_back(0);
    for (int64_t first = 0; first < pattern.rows(); first += multiplier) {
      for (int64_t phase = 0; phase < phases_; ++phase) {
        for (int64_t row = first; row < first + multiplier; ++row) {
          for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
            const int32_t tap = pattern.col_idx()[k];
            if (phase_of_tap[tap] != phase) continue;
            offsets_.push_back(static_cast<int32_t>((row - first) * band.plane_stride) + of_tap[tap]);
            values_.push_back(values[k]);
          }
        }
        bounds_.push_back(static_cast<int64_t>(offsets_.size()));
      }
    }
  }

  BandTaps of(int64_t channel, int64_t phase) const {
    const int64_t* bounds = bounds_.data() + channel * phases_ + phase;
    return {offsets_.data() + bounds[0], bounds[1] - bounds[0], row_stride_};
  }
  const Scalar* values_of(int64_t channel, int64_t phase) const { return values_.data() + bounds_[channel * phases_ + phase]; }
  bool none(int64_t channel) const { return bounds_[channel * phases_] == bounds_[(channel + 1) * phases_]; }

 private:
  const int64_t phases_, row_stride_;
  std::vector<int64_t> bounds_;
  std::vector<int32_t> offsets_;
  std::vector<Scalar> values_;
};

}  // namespace

template <class Scalar>
bool depthwise_applies(const Conv2dGeometry& g, const Images<const Scalar>& source, const Images<const Scalar>& result) {
  if (g.groups != g.in_channels || g.groups == 1 || g.out_channels == 0) return false;
  if (source.stride[3] != 1 || result.stride[3] != 1 || g.in_height == 0 || g.in_width == 0) return false;
  if (g.stride_height > kMostStride || g.stride_width > kMostStride) return false;
  const int64_t height = g.dilation_height * (g.kernel_height - 1), width = g.dilation_width * (g.kernel_width - 1);
  if (std::max(g.pad_top, g.pad_bottom) > height || std::max(g.pad_left, g.pad_right) > width) return false;
  const int64_t planes = g.out_channels / g.groups, rows = height + 1;
  const int64_t row_bytes = (std::max(g.in_width, g.out_width()) + width + 2 * kMargin) * static_cast<int64_t>(sizeof(Scalar));
  return planes <= kLargestBand && rows <= kLargestBand && row_bytes <= kLargestBand && planes * rows * row_bytes <= kLargestBand;
}

template <class Scalar>
void depthwise_forward(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g, const Scalar* values,
                       const Planes<const Scalar>& input, const Vector<const Scalar>& bias, const Planes<Scalar>& output,
                       int num_threads, Activation activation) {
  const Band band(forward_rows(g), forward_cols(g), 1, kernel.lanes, sizeof(Scalar));
  const RowTaps taps(band, pattern);
  const int64_t multiplier = g.out_channels / g.groups;
  share(g.batch * g.groups, g.batch * g.out_channels * g.out_height() * g.out_width(), num_threads,
        [&](int64_t begin, int64_t end) {
          Scalar* packed = band.memory<Scalar>();
          each_plane(begin, end, g.groups, [&](int64_t image, int64_t channel) {
            const int64_t first_row = channel * multiplier;
            each_band(band, [&](int64_t first, int64_t rows) {
              if (!taps.none(first_row, first_row + multiplier)) {
                band.pack(kernel, plane_of(input, image, channel), input.row_stride, first, rows, packed);
              }
              for (int64_t row = first_row; row < first_row + multiplier; ++row) {
                kernel.band_sums(
                    packed, taps.of(row), values + pattern.row_ptr()[row], bias.data ? bias.data[row * bias.stride] : Scalar{0},
                    activation,
                    {plane_of(output, image, row) + first * output.row_stride, output.row_stride, rows, band.cols.result});
              }
            });
          });
        });
}

template <class Scalar>
void depthwise_grad_input(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g, const Scalar* values,
                          const Planes<const Scalar>& grad_output, const Planes<Scalar>& grad_input, int num_threads) {
  const int64_t multiplier = g.out_channels / g.groups;
  const Band band(backward_rows(g), backward_cols(g), multiplier, kernel.lanes, sizeof(Scalar));
  const ChannelTaps<Scalar> taps(band, pattern, values, multiplier);
  const int64_t phase_cols = band.cols.outputs(0);
  share(g.batch * g.groups, g.batch * g.groups * g.in_height * g.in_width, num_threads, [&](int64_t begin, int64_t end) {
    Scalar* packed = band.memory<Scalar>();
    Scalar* sums = scratch<Scalar>(Scratch::sums, band.cols.phases * band.outputs * phase_cols);
    each_plane(begin, end, g.groups, [&](int64_t image, int64_t channel) {
      const int64_t first_row = channel * multiplier;
      each_band(band, [&](int64_t first, int64_t most_rows) {
        if (!taps.none(channel)) {
          for (int64_t plane = 0; plane < multiplier; ++plane) {
            band.pack(kernel, plane_of(grad_output, image, first_row + plane), grad_output.row_stride, first, most_rows,
                      packed + plane * band.plane_stride);
          }
        }
        for (int64_t row_phase = 0; row_phase < band.rows.phases; ++row_phase) {
          const int64_t rows = std::min(most_rows, band.rows.outputs(row_phase) - first);
          if (rows <= 0) continue;
          const PlaneRows<Scalar> out = {
              plane_of(grad_input, image, channel) + (first * band.rows.phases + row_phase) * grad_input.row_stride,
              band.rows.phases * grad_input.row_stride, rows, band.cols.result};
          for (int64_t col_phase = 0; col_phase < band.cols.phases; ++col_phase) {
            const int64_t phase = row_phase * band.cols.phases + col_phase;
            const PlaneRows<Scalar> beside = {sums + col_phase * band.outputs * phase_cols, phase_cols, rows,
                                              band.cols.outputs(col_phase)};
            if (band.cols.phases > 1 && beside.cols == 0) continue;
            kernel.band_sums(packed, taps.of(channel, phase), taps.values_of(channel, phase), Scalar{0}, Activation::none,
                             band.cols.phases == 1 ? out : beside);
          }
          if (band.cols.phases > 1) kernel.interleave(sums, band.outputs * phase_cols, phase_cols, out);
        }
      });
    });
  });
}

template <class Scalar>
void depthwise_grad_weight(const Kernels<Scalar>& kernel, const Pattern& pattern, const Conv2dGeometry& g,
                           const Planes<const Scalar>& input, const Planes<const Scalar>& grad_output, Scalar* grad_values,
                           int num_threads) {
  const Band band(forward_rows(g), forward_cols(g), 1, kernel.lanes, sizeof(Scalar));
  const RowTaps taps(band, pattern);
  const int64_t multiplier = g.out_channels / g.groups;
  std::fill_n(grad_values, pattern.nnz(), Scalar{0});
  // A channel belongs to one task, which visits images and bands in order: no sum depends on the number of threads.
  share(g.groups, g.batch * g.out_channels * g.out_height() * g.out_width(), num_threads, [&](int64_t begin, int64_t end) {
    Scalar* packed = band.memory<Scalar>();
    for (int64_t channel = begin; channel < end; ++channel) {
      const int64_t first_row = channel * multiplier;
      if (taps.none(first_row, first_row + multiplier)) continue;
      for (int64_t image = 0; image < g.batch; ++image) {
        each_band(band, [&](int64_t first, int64_t rows) {
          band.pack(kernel, plane_of(input, image, channel), input.row_stride, first, rows, packed);
          for (int64_t row = first_row; row < first_row + multiplier; ++row) {
            kernel.band_dots(packed, taps.of(row),
                             {plane_of(grad_output, image, row) + first * grad_output.row_stride, grad_output.row_stride, rows,
                              band.cols.result},
                             grad_values + pattern.row_ptr()[row]);
          }
        });
      }
    }
  });
}

#define MPL_SPARSE_INSTANTIATE(Scalar)                                                                                          \
  template bool depthwise_applies<Scalar>(const Conv2dGeometry&, const Images<const Scalar>&, const Images<const Scalar>&);     \
  template void depthwise_forward<Scalar>(const Kernels<Scalar>&, const Pattern&, const Conv2dGeometry&, const Scalar*,         \
                                          const Planes<const Scalar>&, const Vector<const Scalar>&, const Planes<Scalar>&, int, \
                                          Activation);                                                                          \
  template void depthwise_grad_input<Scalar>(const Kernels<Scalar>&, const Pattern&, const Conv2dGeometry&, const Scalar*,      \
                                             const Planes<const Scalar>&, const Planes<Scalar>&, int);                          \
  template void depthwise_grad_weight<Scalar>(const Kernels<Scalar>&, const Pattern&, const Conv2dGeometry&,                    \
                                              const Planes<const Scalar>&, const Planes<const Scalar>&, Scalar*, int);
MPL_SPARSE_INSTANTIATE(float)
MPL_SPARSE_INSTANTIATE(double)
#undef MPL_SPARSE_INSTANTIATE

}  // namespace mpl_sparse
