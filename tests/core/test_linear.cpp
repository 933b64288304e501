// Linear layers, forward and both gradients, against the oracle: a linear layer on a batch is a 1x1 convolution of 1x1 images.
#include <cstring>
#include <limits>
#include <stdexcept>

#include "forced.h"
#include "mpl_sparse/matmul.h"
#include "oracle.h"

using namespace mpl_sparse;

namespace {

template <class Scalar>
struct Linear {
  int64_t batch;
  std::shared_ptr<const Pattern> pattern;
  Array<Scalar, 1> values, bias, grad_values;
  Array<Scalar, 2> input, output, grad_output, grad_input;

  Linear(int64_t samples, std::shared_ptr<const Pattern> positions, Layout layout, Random& random)
      : batch(samples),
        pattern(positions),
        values({pattern->nnz()}, Layout::contiguous, random),
        bias({pattern->rows()}, layout, random),
        grad_values({pattern->nnz()}, Layout::contiguous, random),
        input({batch, pattern->cols()}, layout, random),
        output({batch, pattern->rows()}, layout, random),
        grad_output(output.size, layout, random),
        grad_input(input.size, layout, random) {
    values.fill(random);
    bias.fill(random);
    input.fill(random);
    grad_output.fill(random);
  }

  void forward(int threads, bool with_bias, Activation activation) {
    linear_forward<Scalar>(*pattern, vector_in(values), matrix_in(input), with_bias ? vector_in(bias) : Vector<const Scalar>{},
                           matrix_out(output), threads, activation);
  }

  void run(int threads, bool with_bias = true) {
    forward(threads, with_bias, Activation::none);
    linear_grad_input<Scalar>(*pattern, vector_in(values), matrix_in(grad_output), matrix_out(grad_input), threads);
    linear_grad_weight<Scalar>(*pattern, matrix_in(input), matrix_in(grad_output), vector_out(grad_values), threads);
  }

  void check(int threads, bool with_bias = true) {
    run(threads, with_bias);
    const Dense<Scalar> dense(*pattern, values.values());
    std::vector<Sum> y(output.count()), gx(grad_input.count()), gw(dense.mask.size());
    if (with_bias) output.each([&](const auto& i) { y[i[0] * pattern->rows() + i[1]].add(bias.at({i[1]}), 1); });
    for (int64_t row = 0, w = 0; row < pattern->rows(); ++row) {
      for (int64_t col = 0; col < pattern->cols(); ++col, ++w) {
        if (!dense.mask[w]) continue;
        for (int64_t n = 0; n < batch; ++n) {
          y[n * pattern->rows() + row].add(dense.weight[w], input.at({n, col}));
          gx[n * pattern->cols() + col].add(dense.weight[w], grad_output.at({n, row}));
          gw[w].add(grad_output.at({n, row}), input.at({n, col}));
        }
      }
    }
    bool right = check_agrees("output", output, y);
    forward(threads, with_bias, Activation::relu);
    right = check_agrees("relu of output", output, through_relu(y)) && right;
    right = check_agrees("grad_input", grad_input, gx) && right;
    right = check_agrees("grad_values", grad_values, dense.stored(gw)) && right;
    if (!right) {
      std::cerr << "  in batch " << batch << ", " << pattern->cols() << " -> " << pattern->rows() << ", nnz " << pattern->nnz()
                << ", float" << 8 * sizeof(Scalar) << std::endl;
    }
  }
};

template <class Scalar>
void shapes() {
  Random random(21);
  for (int64_t batch : {0, 1, 2, 17, 300}) {
    for (double density : {0.0, 0.1, 0.5, 1.0}) {
      for (Layout layout : {Layout::contiguous, Layout::scattered}) {
        for (const auto& size : {std::make_pair(1, 1), std::make_pair(13, 40), std::make_pair(33, 7), std::make_pair(0, 5),
                                 std::make_pair(5, 0), std::make_pair(50, 130)}) {
          Linear<Scalar>(batch, random_pattern(size.first, size.second, density, random), layout, random)
              .check(static_cast<int>(pick(random, 1, 3)), chance(random, 0.5));
        }
      }
    }
  }
  // Every length of a row up to a few vectors: the tails of the batch-1 kernel.
  std::vector<int32_t> row_ptr{0}, col_idx;
  for (int32_t length = 0; length <= 70; ++length) {
    for (int32_t k = 0; k < length; ++k) col_idx.push_back(k + 5);
    row_ptr.push_back(static_cast<int32_t>(col_idx.size()));
  }
  for (int64_t batch : {1, 3}) Linear<Scalar>(batch, make_pattern(80, row_ptr, col_idx), Layout::contiguous, random).check(1);
}

// Columns are 16-bit up to 65536 of them, 32-bit beyond; rows likewise in the gradient to the input.
template <class Scalar>
void many_columns() {
  Random random(22);
  for (int64_t cols : {65535, 65536, 65537, 70001}) {
    std::vector<int32_t> row_ptr{0}, col_idx;
    for (int row = 0; row < 5; ++row) {
      for (int64_t col = pick(random, 0, 300); col < cols - 1; col += pick(random, 1, 600)) {
        col_idx.push_back(static_cast<int32_t>(col));
      }
      col_idx.push_back(static_cast<int32_t>(cols - 1));
      row_ptr.push_back(static_cast<int32_t>(col_idx.size()));
    }
    const auto wide = make_pattern(cols, row_ptr, col_idx);
    for (int64_t batch : {1, 2, 17}) {
      Linear<Scalar>(batch, wide, Layout::contiguous, random).check(2);
      Linear<Scalar>(batch, wide->transposed().pattern, Layout::contiguous, random).check(2);
    }
  }
}

template <class Scalar>
void bits_do_not_depend_on_threads() {
  Random random(23);
  const auto pattern = random_pattern(300, 400, 0.6, random);  // enough nonzeros for a single sample to use threads
  for (int64_t batch : {1, 2, 40}) {
    Linear<Scalar> linear(batch, pattern, Layout::contiguous, random);
    std::vector<Scalar> first;
    for (int threads = 1; threads <= 4; ++threads) {
      linear.run(threads);
      std::vector<Scalar> all;
      for (const auto& part : {linear.output.values(), linear.grad_input.values(), linear.grad_values.values()}) {
        all.insert(all.end(), part.begin(), part.end());
      }
      if (threads == 1) first = all;
      CHECK(all.size() == first.size() && std::memcmp(all.data(), first.data(), all.size() * sizeof(Scalar)) == 0);
    }
    if (batch == 1) linear.check(4);
  }
}

template <class Scalar>
void not_finite() {
  Random random(24);
  constexpr double specials[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                                 -std::numeric_limits<double>::infinity()};
  for (int i = 0; i < 100; ++i) {
    const int64_t batch = pick(random, 1, 20);
    Linear<Scalar> linear(batch, random_pattern(20, 30, 0.3, random), Layout::contiguous, random);
    for (auto* array : {&linear.input, &linear.grad_output}) {
      const std::array<int64_t, 2> place{pick(random, 0, batch - 1), pick(random, 0, array->size[1] - 1)};
      array->at(place) = static_cast<Scalar>(specials[pick(random, 0, 2)]);
    }
    if (linear.pattern->nnz()) linear.values.memory[0] = 0;
    linear.check(1);
  }
  Linear<Scalar> linear(1, make_pattern(3, {0, 1, 2}, {0, 2}), Layout::contiguous, random);
  linear.values.memory = {0, 1};
  linear.input.memory = {static_cast<Scalar>(specials[0]), static_cast<Scalar>(specials[0]), 1};
  linear.check(1);
  CHECK(std::isnan(linear.output.at({0, 0})));   // the stored zero
  CHECK(!std::isnan(linear.output.at({0, 1})));  // the pruned ones
}

void refusals() {
  Random random(25);
  const Linear<float> sound(3, random_pattern(4, 6, 0.5, random), Layout::contiguous, random);
  const auto refuses = [&](const char* text, auto spoil) {
    Linear<float> bad = sound;
    spoil(bad);
    CHECK_THROWS(std::invalid_argument, text, bad.run(1));
  };
  refuses("values must have shape", [](auto& l) { ++l.values.size[0]; });
  refuses("values must be contiguous", [](auto& l) { l.values.stride[0] = 0; });
  refuses("input must have shape (3, 6), got (3, 5)", [](auto& l) { l.input.size[1] = 5; });
  refuses("bias must have shape (4,), got (5,)", [](auto& l) { l.bias.size[0] = 5; });
  refuses("output must have shape (3, 4), got (2, 4)", [](auto& l) { l.output.size[0] = 2; });
  refuses("grad_output must have shape (3, 4), got (3, 3)", [](auto& l) { l.grad_output.size[1] = 3; });
  refuses("grad_input must have shape (3, 6), got (4, 6)", [](auto& l) { l.grad_input.size[0] = 4; });
  refuses("grad_values must have shape", [](auto& l) { --l.grad_values.size[0]; });
  refuses("grad_values must be contiguous", [](auto& l) { l.grad_values.stride[0] = 2; });
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  refusals();
  shapes<float>();
  shapes<double>();
  many_columns<float>();
  many_columns<double>();
  bits_do_not_depend_on_threads<float>();
  bits_do_not_depend_on_threads<double>();
  not_finite<float>();
  not_finite<double>();
  return checks::result();
}
