// Depthwise convolutions, which have kernels of their own, against the oracle.
#include "conv.h"
#include "depthwise.h"
#include "forced.h"

using namespace mpl_sparse;

namespace {

Conv2dGeometry depthwise(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel, int64_t stride = 1,
                         int64_t multiplier = 1, int64_t dilation = 1) {
  Conv2dGeometry g = geometry(batch, channels, height, width, channels * multiplier, kernel, kernel);
  g.groups = channels;
  set_stride(g, stride);
  set_dilation(g, dilation);
  set_pad(g, dilation * (kernel / 2));
  return g;
}

Conv2dGeometry random_depthwise(Random& random) {
  for (;;) {
    Conv2dGeometry g;
    g.batch = chance(random, 0.05) ? 0 : pick(random, 1, 3);
    g.groups = g.in_channels = pick(random, 2, 5);
    g.out_channels = g.groups * (chance(random, 0.6) ? 1 : pick(random, 1, 3));
    const int64_t largest = chance(random, 0.3) ? 7 : 3;
    g.kernel_height = pick(random, 1, largest);
    g.kernel_width = pick(random, 1, largest);
    g.stride_height = pick(random, 1, chance(random, 0.8) ? 2 : 3);
    g.stride_width = pick(random, 1, chance(random, 0.8) ? 2 : 3);
    g.dilation_height = pick(random, 1, chance(random, 0.7) ? 1 : 3);
    g.dilation_width = pick(random, 1, chance(random, 0.7) ? 1 : 3);
    const int64_t rows = g.dilation_height * (g.kernel_height - 1), cols = g.dilation_width * (g.kernel_width - 1);
    const int64_t beyond = chance(random, 0.1) ? 2 : 0;  // padding that no tap needs
    g.pad_top = pick(random, 0, rows + beyond);
    g.pad_bottom = pick(random, 0, rows + beyond);
    g.pad_left = pick(random, 0, cols + beyond);
    g.pad_right = pick(random, 0, cols + beyond);
    g.in_height = pick(random, 1, chance(random, 0.3) ? 40 : 12);
    g.in_width = pick(random, 1, chance(random, 0.4) ? 90 : 20);
    try {
      g.validate();
      return g;
    } catch (const std::invalid_argument&) {  // the kernel does not fit
    }
  }
}

// An array whose rows lie apart, columns side by side: part of a wider one.
template <class Scalar>
Array<Scalar, 4> cut_out(const Array<Scalar, 4>& like, Random& random) {
  Array<Scalar, 4> wide({like.size[0], like.size[1], like.size[2] + 1, like.size[3] + 3}, Layout::contiguous, random);
  wide.size = like.size;
  return wide;
}

template <class Scalar>
void cut_out_all(Conv<Scalar>& conv, Random& random) {
  for (Array<Scalar, 4>* array : {&conv.input, &conv.output, &conv.grad_output, &conv.grad_input}) {
    *array = cut_out(*array, random);
    if (array != &conv.output && array != &conv.grad_input) array->fill(random);
  }
}

template <class Scalar>
void random_geometries(uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 400; ++i) {
    const Conv2dGeometry g = random_depthwise(random);
    const bool cut = chance(random, 0.3);
    Conv<Scalar> conv(g, random_density(random), cut || chance(random, 0.6) ? Layout::contiguous : random_layout(random), random);
    if (cut) cut_out_all(conv, random);
    conv.check(static_cast<int>(pick(random, 1, 3)), chance(random, 0.7));
  }
}

// Planes of one band and of several, of fewer columns than a vector and of many vectors, of every tile's height.
std::vector<Conv2dGeometry> layers() {
  std::vector<Conv2dGeometry> list;
  for (int64_t size : {1, 4, 5, 7, 8, 14, 16, 28, 33, 56}) {
    list.push_back(depthwise(2, 3, size, size, 3));
    list.push_back(depthwise(2, 3, size, size, 3, 2));
  }
  list.push_back(depthwise(1, 2, 112, 112, 3));
  list.push_back(depthwise(1, 2, 112, 112, 3, 2));
  list.push_back(depthwise(1, 2, 113, 111, 3, 2));
  list.push_back(depthwise(2, 3, 14, 14, 5));
  list.push_back(depthwise(2, 3, 14, 14, 5, 2));
  list.push_back(depthwise(1, 2, 56, 56, 7));
  list.push_back(depthwise(1, 3, 20, 20, 3, 1, 4));
  list.push_back(depthwise(1, 3, 20, 20, 3, 2, 4));
  list.push_back(depthwise(1, 3, 20, 24, 3, 1, 1, 4));
  list.push_back(depthwise(2, 3, 3, 2, 7));      // the kernel is larger than the image
  list.push_back(depthwise(1, 3, 9, 10, 3, 3));  // a stride that has no kernel of its own
  list.push_back(depthwise(1, 2, 3, 5000, 3));
  return list;
}

template <class Scalar>
void real_layers() {
  Random random(2);
  for (const Conv2dGeometry& g : layers()) {
    for (double density : {0.1, 0.6}) {
      for (Layout layout : {Layout::contiguous, Layout::channels_last}) Conv<Scalar>(g, density, layout, random).check(2);
    }
    Conv<Scalar> conv(g, 0.4, Layout::contiguous, random);
    cut_out_all(conv, random);
    conv.check(1);
  }
}

template <class Scalar>
void bits_do_not_depend_on_threads() {
  Random random(3);
  for (const Conv2dGeometry& g :
       {depthwise(2, 12, 56, 56, 3), depthwise(3, 24, 56, 56, 3, 2), depthwise(2, 7, 70, 70, 5, 1, 2)}) {
    Conv<Scalar> conv(g, 0.5, Layout::contiguous, random);
    check_bits_on_threads(conv);
  }
}

template <class Scalar>
void not_finite(uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 300; ++i) {
    Conv<Scalar> conv(random_depthwise(random), random_density(random), Layout::contiguous, random);
    if (chance(random, 0.3)) cut_out_all(conv, random);
    plant_specials(conv.input, random);
    plant_specials(conv.grad_output, random);
    if (conv.pattern->nnz()) conv.values.memory[pick(random, 0, conv.pattern->nnz() - 1)] = 0;  // stored all the same
    conv.check(1);
  }
}

// Padding is a zero that a weight multiplies.
void infinite_weight() {
  Random random(5);
  Conv<float> conv(depthwise(1, 2, 10, 20, 3), 1, Layout::contiguous, random);
  conv.values.memory[0] = static_cast<float>(kInfinity);  // reads up and to the left
  conv.forward(1);
  check_agrees("output", conv.output,
               expected_forward(conv.g, Dense<float>(*conv.pattern, conv.values.values()), conv.input, &conv.bias, conv.output));
  CHECK(std::isnan(conv.output.at({0, 0, 0, 5})) && std::isnan(conv.output.at({0, 0, 5, 0})));
  CHECK(std::isinf(conv.output.at({0, 0, 5, 5})));
  CHECK(!std::isnan(conv.output.at({0, 1, 0, 0})));
}

// Which convolutions take this path is decided in one place.
void applies() {
  Random random(6);
  const auto taken = [&](const Conv2dGeometry& g, Layout layout) {
    Conv<float> conv(g, 0.5, layout, random);
    return depthwise_applies<float>(g, images_in(conv.input), images_in(conv.output));
  };
  CHECK(taken(depthwise(1, 4, 28, 28, 3), Layout::contiguous));
  CHECK(taken(depthwise(1, 4, 28, 28, 5, 2, 2), Layout::contiguous));
  CHECK(!taken(depthwise(1, 4, 28, 28, 3), Layout::channels_last));
  CHECK(!taken(depthwise(1, 4, 28, 28, 3, 3), Layout::contiguous));
  CHECK(!taken(depthwise(1, 2, 3, 70000, 3), Layout::contiguous));
  Conv2dGeometry grouped = depthwise(1, 4, 28, 28, 3);
  grouped.groups = 2;
  CHECK(!taken(grouped, Layout::contiguous));
  Conv2dGeometry padded = depthwise(1, 4, 28, 28, 3);
  padded.pad_left = 3;
  CHECK(!taken(padded, Layout::contiguous));
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  applies();
  random_geometries<float>(1);
  random_geometries<double>(11);
  real_layers<float>();
  real_layers<double>();
  bits_do_not_depend_on_threads<float>();
  bits_do_not_depend_on_threads<double>();
  not_finite<float>(4);
  not_finite<double>(44);
  infinite_weight();
  return checks::result();
}
