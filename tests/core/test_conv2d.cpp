// Convolution, its gradient to the input and its gradient at the nonzeros, against the oracle.
#include <stdexcept>

#include "conv.h"
#include "forced.h"

using namespace mpl_sparse;

namespace {

Conv2dGeometry random_geometry(Random& random) {
  for (;;) {
    Conv2dGeometry g;
    g.batch = chance(random, 0.05) ? 0 : pick(random, 1, 4);
    g.groups = chance(random, 0.6) ? 1 : pick(random, 2, 6);
    const bool depthwise = chance(random, 0.2);
    g.in_channels = g.groups * (depthwise ? 1 : pick(random, chance(random, 0.03) ? 0 : 1, 9));
    const int64_t most_rows = depthwise ? 2 : chance(random, 0.2) ? 40 : 9;
    g.out_channels = g.groups * pick(random, chance(random, 0.03) ? 0 : 1, most_rows);
    const int64_t largest = chance(random, 0.2) ? 8 : 3;
    g.kernel_height = pick(random, 1, largest);
    g.kernel_width = pick(random, 1, largest);
    g.stride_height = pick(random, 1, chance(random, 0.5) ? 1 : 4);
    g.stride_width = pick(random, 1, chance(random, 0.5) ? 1 : 4);
    g.dilation_height = pick(random, 1, chance(random, 0.6) ? 1 : 4);
    g.dilation_width = pick(random, 1, chance(random, 0.6) ? 1 : 4);
    const int64_t most_pad = chance(random, 0.3) ? 0 : 4;
    for (int64_t* pad : {&g.pad_top, &g.pad_bottom, &g.pad_left, &g.pad_right}) *pad = pick(random, 0, most_pad);
    g.in_height = pick(random, 0, chance(random, 0.2) ? 40 : 14);
    g.in_width = pick(random, 0, chance(random, 0.2) ? 150 : 14);
    try {
      g.validate();
    } catch (const std::invalid_argument&) {
      continue;  // the kernel does not fit
    }
    const int64_t taps = g.in_channels / g.groups * g.kernel_height * g.kernel_width;
    if (g.batch * g.out_channels * g.out_height() * g.out_width() * taps < 200000) return g;
  }
}

template <class Scalar>
void random_geometries(uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 400; ++i) {
    const Conv2dGeometry g = random_geometry(random);
    Conv<Scalar> conv(g, random_density(random), random_layout(random), random);
    conv.check(static_cast<int>(pick(random, 1, 3)), chance(random, 0.7));
  }
}

// Shapes of real networks, made small; blocks, tiles and widths of every kind.
std::vector<Conv2dGeometry> layers() {
  std::vector<Conv2dGeometry> list;
  const auto add = [&](Conv2dGeometry g, int64_t stride = 1, int64_t pad = 0, int64_t dilation = 1, int64_t groups = 1) {
    set_stride(g, stride);
    set_pad(g, pad);
    set_dilation(g, dilation);
    g.groups = groups;
    list.push_back(g);
  };
  add(geometry(1, 1, 28, 28, 8, 5, 5), 1, 2);
  add(geometry(2, 3, 45, 38, 6, 7, 7), 2, 3);
  add(geometry(1, 16, 56, 56, 5, 3, 3), 1, 1);
  add(geometry(3, 24, 7, 7, 20, 3, 3), 1, 1);
  add(geometry(2, 12, 14, 14, 9, 3, 3), 2, 1);
  add(geometry(2, 130, 7, 7, 24, 1, 1));
  add(geometry(2, 30, 14, 13, 20, 1, 1), 2);
  add(geometry(1, 200, 5, 5, 30, 3, 3), 1, 1);
  add(geometry(2, 40, 12, 12, 40, 3, 3), 1, 1, 1, 40);  // depthwise
  add(geometry(2, 40, 12, 12, 80, 3, 3), 2, 1, 1, 40);  // depthwise with a multiplier
  add(geometry(2, 36, 9, 10, 24, 3, 3), 1, 1, 1, 4);
  add(geometry(1, 8, 30, 30, 6, 3, 3), 1, 8, 8);  // atrous
  add(geometry(1, 3, 16, 400, 4, 1, 11));         // wider than any tile
  add(geometry(1, 3, 400, 3, 4, 11, 1));
  add(geometry(20, 6, 4, 4, 7, 4, 4));             // one output an image
  add(geometry(2, 3, 32, 32, 10, 8, 8), 8);        // patches, as a vision transformer embeds them
  add(geometry(1, 2, 9, 9, 3, 2, 2), 5, 6, 3);     // padding beyond the kernel's reach
  add(geometry(2, 2, 3, 3, 3, 3, 3), 1000003, 0);  // a stride that is never taken
  add(geometry(1, 3, 2, 2, 2, 1, 1), 7, 9);        // most outputs lie in the padding
  return list;
}

template <class Scalar>
void real_layers() {
  Random random(6);
  for (const Conv2dGeometry& g : layers()) {
    for (double density : {0.1, 0.6}) {
      for (Layout layout : {Layout::contiguous, Layout::channels_last}) Conv<Scalar>(g, density, layout, random).check(2);
    }
  }
}

// Kernels whose tile is beyond the reach of 16-bit offsets.
template <class Scalar>
void giant_kernels() {
  Random random(7);
  Conv2dGeometry wide = geometry(1, 1, 1, 70040, 2, 1, 70000);
  wide.pad_right = 3;
  Conv2dGeometry square = geometry(1, 1, 306, 310, 2, 300, 300);
  square.pad_top = 1;
  Conv2dGeometry strided = square;
  set_stride(strided, 3);
  Conv2dGeometry two_channels = geometry(2, 4, 303, 301, 4, 300, 300);
  two_channels.groups = 2;
  for (const Conv2dGeometry& g : {wide, square, strided, two_channels}) {
    Conv<Scalar>(g, 0.002, Layout::contiguous, random).check(2);
  }
}

// Strides at the limit of their range: no table may have an entry for each place that a stride skips.
void enormous_strides() {
  Random random(8);
  for (int64_t stride : {int64_t{1} << 16, int64_t{1} << 30, (int64_t{1} << 31) - 1}) {
    Conv2dGeometry once = geometry(1, 16, 4, 5, 3, 2, 1);
    set_stride(once, stride);
    Conv<float>(once, 0.5, Layout::contiguous, random).check(1);
    Conv2dGeometry padded = geometry(2, 16, 3, 3, 2, 1, 1);
    set_stride(padded, stride);
    padded.pad_top = padded.pad_left = 1;
    padded.pad_bottom = padded.pad_right = stride - 1;  // two outputs along each axis, the second in the padding or at its edge
    Conv<float>(padded, 0.5, Layout::contiguous, random).check(1);
  }
  Conv2dGeometry dilated = geometry(1, 2, 2, 1, 2, 3, 2);
  dilated.dilation_height = int64_t{1} << 29;
  dilated.dilation_width = (int64_t{1} << 30) - 1;
  dilated.pad_top = int64_t{1} << 30;
  dilated.pad_left = int64_t{1} << 30;
  dilated.pad_right = 1;
  Conv<float>(dilated, 1, Layout::contiguous, random).check(1);
}

template <class Scalar>
void bits_do_not_depend_on_threads() {
  Random random(9);
  std::vector<Conv2dGeometry> list = layers();
  list.push_back(geometry(4, 32, 20, 20, 70, 3, 3));
  for (const Conv2dGeometry& g : list) {
    Conv<Scalar> conv(g, 0.3, random_layout(random), random);
    check_bits_on_threads(conv);
  }
}

// NaN and infinity go where the oracle says, and nowhere else: not through a pruned weight, nor to a tap that does not read them.
template <class Scalar>
void not_finite(uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 300; ++i) {
    const Conv2dGeometry g = random_geometry(random);
    Conv<Scalar> conv(g, random_density(random), random_layout(random), random);
    plant_specials(conv.input, random);
    plant_specials(conv.grad_output, random);
    if (conv.pattern->nnz()) conv.values.memory[pick(random, 0, conv.pattern->nnz() - 1)] = 0;  // stored all the same
    conv.check(1);
  }
}

void not_finite_examples() {
  Random random(11);
  // One output channel; of its 3x3 kernel the centre and one neighbour are stored, the centre as zero.
  Conv2dGeometry g = geometry(1, 1, 6, 40, 1, 3, 3);
  set_pad(g, 1);
  const auto pattern = make_pattern(9, {0, 2}, {4, 5});
  Conv<float> conv(g, 0, Layout::contiguous, random);
  conv.pattern = pattern;
  conv.values = Array<float, 1>({2}, Layout::contiguous, random);
  conv.grad_values = conv.values;
  conv.values.memory = {0, 2};
  conv.input.at({0, 0, 3, 39}) = static_cast<float>(kNan);  // in the last column: the right neighbour of column 38
  conv.check(1);
  CHECK(std::isnan(conv.output.at({0, 0, 3, 39})));  // through the stored zero
  CHECK(std::isnan(conv.output.at({0, 0, 3, 38})));  // through the neighbour
  CHECK(!std::isnan(conv.output.at({0, 0, 3, 37})));
  CHECK(!std::isnan(conv.output.at({0, 0, 4, 39})));  // the pruned weight above never touched it
  // The first column is no one's right neighbour: only the centre reads it.
  conv.input.at({0, 0, 3, 39}) = 1;
  conv.backward_weight(1);
  const float before = conv.grad_values.memory[1];
  conv.input.at({0, 0, 3, 0}) = static_cast<float>(kInfinity);
  conv.backward_weight(1);
  CHECK(std::isinf(conv.grad_values.memory[0]));
  Conv<float> clean = conv;
  clean.input.at({0, 0, 3, 0}) = 0;
  clean.backward_weight(1);
  CHECK_EQ(conv.grad_values.memory[1], clean.grad_values.memory[1]);
  CHECK_EQ(conv.grad_values.memory[1], before);
}

// What torch.relu does to the numbers that are not like others. No nonzeros: the outputs are the biases.
template <class Scalar>
void relu_of_special_numbers() {
  Random random(14);
  for (Layout layout : {Layout::contiguous, Layout::channels_last, Layout::scattered}) {
    Conv<Scalar> conv(geometry(2, 3, 5, 9, 6, 1, 1), 0, layout, random);
    const double biases[] = {kNan, -0.0, -kInfinity, kInfinity, -1, 2};
    for (int64_t channel = 0; channel < 6; ++channel) conv.bias.at({channel}) = static_cast<Scalar>(biases[channel]);
    conv.forward(1, true, Activation::relu);
    conv.output.each([&](const auto& i) {
      const Scalar y = conv.output.at(i);
      const bool positive_zero = y == 0 && !std::signbit(y);
      const bool right[] = {std::isnan(y), positive_zero, positive_zero, y == static_cast<Scalar>(kInfinity),
                            positive_zero, y == 2};
      CHECK(right[i[1]]);
    });
  }
}

// Refusals name the argument, and nothing is written before them.
void refusals() {
  Random random(12);
  Conv2dGeometry g = geometry(2, 4, 5, 6, 4, 3, 2);
  g.groups = 2;
  Conv<float> conv(g, 0.5, Layout::contiguous, random);
  const Conv<float> before = conv;
  const auto refuses = [&](const char* text, auto spoil) {
    Conv<float> bad = conv;
    spoil(bad);
    const std::vector<float> untouched = bad.output.memory;
    CHECK_THROWS(std::invalid_argument, text, bad.forward(1));
    CHECK(bad.output.memory == untouched);
  };
  refuses("pattern must have 4 rows and 12 columns, got 3 and 12",
          [&](auto& c) { c.pattern = random_pattern(3, 12, 0.5, random); });
  refuses("pattern must have 4 rows and 12 columns, got 4 and 24",
          [&](auto& c) { c.pattern = random_pattern(4, 24, 0.5, random); });
  refuses("values must have shape", [](auto& c) { ++c.values.size[0]; });
  refuses("values must be contiguous, got stride 2", [](auto& c) { c.values.stride[0] = 2; });
  refuses("input must have shape (2, 4, 5, 6), got (2, 4, 6, 5)", [](auto& c) { std::swap(c.input.size[2], c.input.size[3]); });
  refuses("bias must have shape (4,), got (3,)", [](auto& c) { c.bias.size[0] = 3; });
  refuses("output must have shape (2, 4, 3, 5), got (1, 4, 3, 5)", [](auto& c) { c.output.size[0] = 1; });
  refuses("groups must lie in", [](auto& c) { c.g.groups = 0; });
  refuses("stride_width must lie in", [](auto& c) { c.g.stride_width = 0; });
  conv.output.size[1] = conv.grad_output.size[1] = 5;
  CHECK_THROWS(std::invalid_argument, "grad_output must have shape", conv.backward_input(1));
  CHECK_THROWS(std::invalid_argument, "grad_output must have shape", conv.backward_weight(1));
  conv = before;
  conv.grad_input.size[3] = 1;
  CHECK_THROWS(std::invalid_argument, "grad_input must have shape (2, 4, 5, 6), got (2, 4, 5, 1)", conv.backward_input(1));
  conv = before;
  conv.grad_values.size[0] -= 1;
  CHECK_THROWS(std::invalid_argument, "grad_values must have shape", conv.backward_weight(1));
  conv = before;
  conv.grad_values.stride[0] = -1;
  CHECK_THROWS(std::invalid_argument, "grad_values must be contiguous", conv.backward_weight(1));
}

// An expanded input: strides of zero.
void broadcast_input() {
  Random random(13);
  Conv2dGeometry g = geometry(3, 4, 6, 7, 5, 3, 3);
  Conv<double> conv(g, 0.5, Layout::contiguous, random);
  conv.input.stride = {0, 0, 0, 1};
  conv.grad_output.stride = {0, 1, 0, 0};
  conv.input.memory.resize(7);
  conv.grad_output.memory.resize(5);
  conv.forward(2);
  conv.backward_input(2);
  conv.backward_weight(2);
  const Dense<double> dense(*conv.pattern, conv.values.values());
  check_agrees("output", conv.output, expected_forward(g, dense, conv.input, &conv.bias, conv.output));
  check_agrees("grad_input", conv.grad_input, expected_grad_input(g, dense, conv.grad_output, conv.grad_input));
  check_agrees("grad_values", conv.grad_values, expected_grad_weight(g, dense, conv.input, conv.grad_output));
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  refusals();
  random_geometries<float>(5);
  random_geometries<double>(55);
  real_layers<float>();
  real_layers<double>();
  giant_kernels<float>();
  giant_kernels<double>();
  enormous_strides();
  bits_do_not_depend_on_threads<float>();
  bits_do_not_depend_on_threads<double>();
  not_finite<float>(10);
  not_finite<double>(100);
  not_finite_examples();
  relu_of_special_numbers<float>();
  relu_of_special_numbers<double>();
  broadcast_input();
  return checks::result();
}
