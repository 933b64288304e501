// One convolution with all its arrays, checked against the oracle; and what tests of convolutions make at random.
#pragma once

#include <cstring>
#include <limits>
#include <sstream>
#include <string>

#include "oracle.h"

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using mpl_sparse::Activation;
using mpl_sparse::Conv2dGeometry;
using mpl_sparse::Pattern;
using mpl_sparse::Vector;

inline std::string text(const Conv2dGeometry& g) {
  std::ostringstream out;
  out << g.batch << "x" << g.in_channels << "x" << g.in_height << "x" << g.in_width << " -> " << g.out_channels << ", kernel "
      << g.kernel_height << "x" << g.kernel_width << ", stride " << g.stride_height << "x" << g.stride_width << ", pad "
      << g.pad_top << "," << g.pad_bottom << "," << g.pad_left << "," << g.pad_right << ", dilation " << g.dilation_height << "x"
      << g.dilation_width << ", groups " << g.groups;
  return out.str();
}

// All the arrays of one convolution.
template <class Scalar>
struct Conv {
  Conv2dGeometry g;
  std::shared_ptr<const Pattern> pattern;
  Array<Scalar, 1> values, bias, grad_values;
  Array<Scalar, 4> input, output, grad_output, grad_input;

  Conv(const Conv2dGeometry& geometry, double density, Layout layout, Random& random)
      : g(geometry),
        pattern(random_pattern(g.out_channels, g.in_channels / g.groups * g.kernel_height * g.kernel_width, density, random)),
        values({pattern->nnz()}, Layout::contiguous, random),
        bias({g.out_channels}, layout, random),
        grad_values({pattern->nnz()}, Layout::contiguous, random),
        input({g.batch, g.in_channels, g.in_height, g.in_width}, layout, random),
        output({g.batch, g.out_channels, g.out_height(), g.out_width()}, layout, random),
        grad_output(output.size, layout, random),
        grad_input(input.size, layout, random) {
    values.fill(random);
    bias.fill(random);
    input.fill(random);
    grad_output.fill(random);
  }

  void forward(int threads, bool with_bias = true, Activation activation = Activation::none) {
    mpl_sparse::conv2d_forward<Scalar>(*pattern, g, vector_in(values), images_in(input),
                                       with_bias ? vector_in(bias) : Vector<const Scalar>{}, images_out(output), threads,
                                       activation);
  }
  void backward_input(int threads) {
    mpl_sparse::conv2d_grad_input<Scalar>(*pattern, g, vector_in(values), images_in(grad_output), images_out(grad_input),
                                          threads);
  }
  void backward_weight(int threads) {
    mpl_sparse::conv2d_grad_weight<Scalar>(*pattern, g, images_in(input), images_in(grad_output), vector_out(grad_values),
                                           threads);
  }

  void check(int threads, bool with_bias = true) {
    g.validate();
    forward(threads, with_bias);
    backward_input(threads);
    backward_weight(threads);
    const Dense<Scalar> dense(*pattern, values.values());
    const std::vector<Sum> expected = expected_forward(g, dense, input, with_bias ? &bias : nullptr, output);
    bool right = check_agrees("output", output, expected);
    forward(threads, with_bias, Activation::relu);
    right = check_agrees("relu of output", output, through_relu(expected)) && right;
    right = check_agrees("grad_input", grad_input, expected_grad_input(g, dense, grad_output, grad_input)) && right;
    right = check_agrees("grad_values", grad_values, expected_grad_weight(g, dense, input, grad_output)) && right;
    if (!right) {
      std::cerr << "  in " << text(g) << ", nnz " << pattern->nnz() << ", float" << 8 * sizeof(Scalar) << std::endl;
    }
  }
};

inline Conv2dGeometry geometry(int64_t batch, int64_t in_channels, int64_t height, int64_t width, int64_t out_channels,
                               int64_t kernel_height, int64_t kernel_width) {
  Conv2dGeometry g;
  g.batch = batch;
  g.in_channels = in_channels;
  g.in_height = height;
  g.in_width = width;
  g.out_channels = out_channels;
  g.kernel_height = kernel_height;
  g.kernel_width = kernel_width;
  return g;
}

inline void set_stride(Conv2dGeometry& g, int64_t stride) { g.stride_height = g.stride_width = stride; }
inline void set_pad(Conv2dGeometry& g, int64_t pad) { g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = pad; }
inline void set_dilation(Conv2dGeometry& g, int64_t dilation) { g.dilation_height = g.dilation_width = dilation; }

inline double random_density(Random& random) {
  constexpr double densities[] = {0, 0.03, 0.1, 0.3, 0.7, 1};
  return densities[pick(random, 0, 5)];
}

inline Layout random_layout(Random& random) { return static_cast<Layout>(pick(random, 0, 2)); }

template <class Scalar>
bool same_bits(const Array<Scalar, 4>& a, const std::vector<Scalar>& b) {
  const std::vector<Scalar> values = a.values();
  return values.size() == b.size() && std::memcmp(values.data(), b.data(), b.size() * sizeof(Scalar)) == 0;
}

// Nothing that a convolution computes depends on the number of threads, to the last bit.
template <class Scalar>
void check_bits_on_threads(Conv<Scalar>& conv) {
  std::vector<Scalar> output, grad_input, grad_values;
  for (int threads = 1; threads <= 4; ++threads) {
    conv.forward(threads);
    conv.backward_input(threads);
    conv.backward_weight(threads);
    if (threads == 1) {
      output = conv.output.values();
      grad_input = conv.grad_input.values();
      grad_values = conv.grad_values.values();
    }
    CHECK(same_bits(conv.output, output));
    CHECK(same_bits(conv.grad_input, grad_input));
    CHECK(std::memcmp(conv.grad_values.memory.data(), grad_values.data(), grad_values.size() * sizeof(Scalar)) == 0);
  }
}

// Puts up to three numbers that are not finite somewhere.
template <class Scalar>
void plant_specials(Array<Scalar, 4>& array, Random& random) {
  constexpr double specials[] = {kNan, kInfinity, -kInfinity};
  for (int64_t n = pick(random, 0, 3); n > 0 && array.count() > 0; --n) {
    std::array<int64_t, 4> place;
    for (int axis = 0; axis < 4; ++axis) place[axis] = pick(random, 0, array.size[axis] - 1);
    array.at(place) = static_cast<Scalar>(specials[pick(random, 0, 2)]);
  }
}
