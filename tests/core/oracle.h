// What the core must compute, as plain loops over a dense weight and its mask in long double; nothing of src/ is used.
//
// Each result comes with the bound on a floating-point sum in any order: |error| <= gamma_k * sum |a_i * b_i|, where
// gamma_k = k u / (1 - k u), u is half the machine epsilon and k the number of roundings on the way (Higham, Accuracy and
// Stability of Numerical Algorithms, section 3.1).
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "arrays.h"
#include "check.h"
#include "mpl_sparse/conv2d.h"

struct Sum {
  long double value = 0, magnitude = 0;
  int64_t terms = 0;

  void add(long double a, long double b) {
    value += a * b;
    magnitude += std::fabs(a * b);
    ++terms;
  }
};

// A sum through relu keeps its bound: relu moves no two numbers apart.
inline std::vector<Sum> through_relu(std::vector<Sum> sums) {
  for (Sum& sum : sums) sum.value = sum.value < 0 ? 0 : sum.value;
  return sums;
}

template <class Number>
long double gamma(int64_t roundings) {
  const long double ku = roundings * static_cast<long double>(std::numeric_limits<Number>::epsilon()) / 2;
  return ku / (1 - ku);
}

template <class Scalar>
bool agrees(Scalar actual, const Sum& expected) {
  if (std::isnan(expected.value)) return std::isnan(actual);
  if (std::isinf(expected.value)) return static_cast<long double>(actual) == expected.value;
  const int64_t roundings = expected.terms + 2;
  const long double bound = (gamma<Scalar>(roundings) + gamma<long double>(roundings)) * expected.magnitude;
  return std::fabs(static_cast<long double>(actual) - expected.value) <= bound;  // false for NaN
}

// Checks every element; reports the first that is wrong.
template <class Scalar, int rank>
bool check_agrees(const char* what, const Array<Scalar, rank>& actual, const std::vector<Sum>& expected) {
  const std::vector<Scalar> values = actual.values();
  CHECK_EQ(values.size(), expected.size());
  CHECK(actual.gaps_untouched());
  for (size_t i = 0; i < values.size() && i < expected.size(); ++i) {
    if (!agrees(values[i], expected[i])) {
      checks::fail(__FILE__, __LINE__) << what << ": element " << i << " of " << values.size() << " is " << values[i]
                                       << ", expected " << expected[i].value << " from " << expected[i].terms << " terms"
                                       << std::endl;
      return false;
    }
  }
  return true;
}

// A weight as the dense matrix of a pattern: the mask says what is stored, whatever the value.
template <class Scalar>
struct Dense {
  int64_t cols;
  std::vector<char> mask;
  std::vector<Scalar> weight;

  Dense(const mpl_sparse::Pattern& pattern, const std::vector<Scalar>& values)
      : cols(pattern.cols()), mask(pattern.rows() * pattern.cols()), weight(mask.size()) {
    for (int64_t row = 0; row < pattern.rows(); ++row) {
      for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
        mask[row * cols + pattern.col_idx()[k]] = 1;
        weight[row * cols + pattern.col_idx()[k]] = values[k];
      }
    }
  }

  // The mask's elements of a dense matrix, row-major: the order of a pattern's values.
  std::vector<Sum> stored(const std::vector<Sum>& all) const {
    std::vector<Sum> result;
    for (size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) result.push_back(all[i]);
    }
    return result;
  }
};

// Calls use(index into the dense weight, output index, input index or nullptr in the padding) for each product of a convolution.
template <class Scalar, class Use>
void each_product(const mpl_sparse::Conv2dGeometry& g, const Dense<Scalar>& dense, Use use) {
  const int64_t group_in = g.in_channels / g.groups, group_out = g.out_channels / g.groups;
  const int64_t reach_height = g.dilation_height * (g.kernel_height - 1) + 1;
  const int64_t reach_width = g.dilation_width * (g.kernel_width - 1) + 1;
  const int64_t out_height = (g.in_height + g.pad_top + g.pad_bottom - reach_height) / g.stride_height + 1;
  const int64_t out_width = (g.in_width + g.pad_left + g.pad_right - reach_width) / g.stride_width + 1;
  CHECK_EQ(g.out_height(), out_height);
  CHECK_EQ(g.out_width(), out_width);
  int64_t w = 0;
  for (int64_t oc = 0; oc < g.out_channels; ++oc) {
    for (int64_t c = 0; c < group_in; ++c) {
      for (int64_t kh = 0; kh < g.kernel_height; ++kh) {
        for (int64_t kw = 0; kw < g.kernel_width; ++kw, ++w) {
          if (!dense.mask[w]) continue;
          for (int64_t n = 0; n < g.batch; ++n) {
            for (int64_t oh = 0; oh < out_height; ++oh) {
              for (int64_t ow = 0; ow < out_width; ++ow) {
                const int64_t ih = oh * g.stride_height + kh * g.dilation_height - g.pad_top;
                const int64_t iw = ow * g.stride_width + kw * g.dilation_width - g.pad_left;
                const bool inside = ih >= 0 && ih < g.in_height && iw >= 0 && iw < g.in_width;
                const std::array<int64_t, 4> input{n, oc / group_out * group_in + c, ih, iw};
                use(w, std::array<int64_t, 4>{n, oc, oh, ow}, inside ? &input : nullptr);
              }
            }
          }
        }
      }
    }
  }
}

template <class Scalar>
int64_t flat(const Array<Scalar, 4>& a, const std::array<int64_t, 4>& i) {
  return ((i[0] * a.size[1] + i[1]) * a.size[2] + i[2]) * a.size[3] + i[3];
}

template <class Scalar>
std::vector<Sum> expected_forward(const mpl_sparse::Conv2dGeometry& g, const Dense<Scalar>& dense, const Array<Scalar, 4>& input,
                                  const Array<Scalar, 1>* bias, const Array<Scalar, 4>& output) {
  std::vector<Sum> sums(output.count());
  if (bias) output.each([&](const auto& i) { sums[flat(output, i)].add(bias->at({i[1]}), 1); });
  each_product(g, dense, [&](int64_t w, const auto& out, const auto* in) {
    sums[flat(output, out)].add(dense.weight[w], in ? input.at(*in) : Scalar{0});
  });
  return sums;
}

template <class Scalar>
std::vector<Sum> expected_grad_input(const mpl_sparse::Conv2dGeometry& g, const Dense<Scalar>& dense,
                                     const Array<Scalar, 4>& grad_output, const Array<Scalar, 4>& grad_input) {
  std::vector<Sum> sums(grad_input.count());
  each_product(g, dense, [&](int64_t w, const auto& out, const auto* in) {
    if (in) sums[flat(grad_input, *in)].add(dense.weight[w], grad_output.at(out));
  });
  return sums;
}

template <class Scalar>
std::vector<Sum> expected_grad_weight(const mpl_sparse::Conv2dGeometry& g, const Dense<Scalar>& dense,
                                      const Array<Scalar, 4>& input, const Array<Scalar, 4>& grad_output) {
  std::vector<Sum> sums(dense.mask.size());
  each_product(g, dense, [&](int64_t w, const auto& out, const auto* in) {
    sums[w].add(grad_output.at(out), in ? input.at(*in) : Scalar{0});
  });
  return dense.stored(sums);
}
