// Linear layers, forward and both gradients, against the oracle: a linear layer on a batch is a 1x1 convolution of 1x1 images.
#include <cstring>
#include <limits>
#include <stdexcept>

#include "dispatch.h"
#include "forced.h"
#include "mpl_sparse/matmul.h"
#include "oracle.h"
#include "plan_cache.h"

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
  // The same among so many empty rows that rows are short in the mean.
  row_ptr.resize(1400, row_ptr.back());
  Linear<Scalar>(1, make_pattern(80, row_ptr, col_idx), Layout::contiguous, random).check(1);
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
  for (double density : {0.1, 0.6, 0.97}) {
    // enough nonzeros for a single sample to use threads
    const auto pattern = random_pattern(density < 0.5 ? 1500 : 300, 400, density, random);
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
}

template <class Scalar>
void not_finite() {
  Random random(24);
  constexpr double specials[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                                 -std::numeric_limits<double>::infinity()};
  for (int i = 0; i < 200; ++i) {
    const int64_t batch = i % 2 ? 1 : pick(random, 1, 20);
    Linear<Scalar> linear(batch, random_pattern(20, 30, i % 3 ? 0.3 : 0.97, random), Layout::contiguous, random);
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

// Each form of the columns, whatever the density, and each way to sum rows, whatever their length: the operations choose one, and
// some backends never choose bits. Arrays are as long as the kernels' contract says, and no longer.
template <class Scalar>
void every_form_of_columns() {
  Random random(26);
  const Kernels<Scalar>& kernel = kernels<Scalar>();
  const int64_t lanes = kernel.lanes;
  for (const auto& size : {std::make_pair(1, 1), std::make_pair(3, 5), std::make_pair(4, 16), std::make_pair(9, 64),
                           std::make_pair(13, 84), std::make_pair(8, 129), std::make_pair(6, 700), std::make_pair(30, 3)}) {
    for (double density : {0.0, 0.05, 0.5, 0.95, 1.0}) {
      const int64_t rows = size.first, cols = size.second, width = (cols + lanes - 1) / lanes * lanes;
      const auto pattern = random_pattern(rows, cols, density, random);
      const int64_t nnz = pattern->nnz(), begin = pick(random, 0, rows - 1), end = pick(random, begin + 1, rows);
      const int32_t *row_ptr = pattern->row_ptr(), *col_idx = pattern->col_idx();
      const int64_t first = row_ptr[begin], count = row_ptr[end] - first;
      Array<Scalar, 1> values({nnz}, Layout::contiguous, random), x({cols}, Layout::contiguous, random);
      Array<Scalar, 1> g({rows}, Layout::contiguous, random);
      for (auto* array : {&values, &x, &g}) array->fill(random);
      if (chance(random, 0.3)) x.memory[pick(random, 0, cols - 1)] = std::numeric_limits<Scalar>::quiet_NaN();
      if (chance(random, 0.3)) x.memory[pick(random, 0, cols - 1)] = std::numeric_limits<Scalar>::infinity();
      if (nnz && chance(random, 0.3)) values.memory[pick(random, 0, nnz - 1)] = std::numeric_limits<Scalar>::infinity();
      if (nnz && chance(random, 0.3)) values.memory[pick(random, 0, nnz - 1)] = std::numeric_limits<Scalar>::quiet_NaN();
      if (chance(random, 0.3)) g.memory[pick(random, 0, rows - 1)] = std::numeric_limits<Scalar>::infinity();
      const std::vector<uint16_t>& narrow = pattern->plans().narrow_columns(*pattern);
      const PatternBits& bits = pattern->plans().column_bits(*pattern);

      std::vector<Scalar> own(values.memory.begin() + first, values.memory.begin() + first + count), padded = own;
      padded.resize(count + lanes, std::numeric_limits<Scalar>::quiet_NaN());
      std::vector<Scalar> input = x.memory;
      input.resize(width, std::numeric_limits<Scalar>::quiet_NaN());
      std::vector<Sum> dot(rows), added(cols), sampled(count);
      for (int64_t row = begin; row < end; ++row) {
        for (int32_t k = row_ptr[row]; k < row_ptr[row + 1]; ++k) {
          dot[row].add(values.memory[k], x.memory[col_idx[k]]);
          added[col_idx[k]].add(g.memory[row], values.memory[k]);
          sampled[k - first].add(g.memory[row], x.memory[col_idx[k]]);
        }
      }
      const BitRowsJob by_bits{row_ptr, bits.bits.data(), bits.row_bytes, cols, begin, end};
      for (int form = 0; form < 5; ++form) {
        const int64_t mean_nonzeros = form < 2 ? 0 : cols;
        const RowsJob<uint16_t> u16{row_ptr, narrow.data(), begin, end, mean_nonzeros};
        const RowsJob<int32_t> i32{row_ptr, col_idx, begin, end, mean_nonzeros};
        Array<Scalar, 1> out({rows}, Layout::contiguous, random), sums({cols}, Layout::contiguous, random);
        Array<Scalar, 1> grad({count}, Layout::contiguous, random);
        out.memory.assign(rows, 0);
        sums.memory.assign(width, 0);
        grad.memory.assign(count + lanes, 0);
        const RowResults<Scalar> to{nullptr, 1, out.memory.data(), 1, Activation::none};
        if (form == 0 || form == 2) {
          kernel.rows_dot_u16(u16, own.data(), x.memory.data(), to);
          kernel.rows_add_u16(u16, own.data(), g.memory.data(), 1, sums.memory.data());
          kernel.rows_sample_u16(u16, g.memory.data(), 1, x.memory.data(), grad.memory.data());
        } else if (form == 1 || form == 3) {
          kernel.rows_dot_i32(i32, own.data(), x.memory.data(), to);
          kernel.rows_add_i32(i32, own.data(), g.memory.data(), 1, sums.memory.data());
          kernel.rows_sample_i32(i32, g.memory.data(), 1, x.memory.data(), grad.memory.data());
        } else {
          kernel.rows_dot_bits(by_bits, padded.data(), input.data(), to);
          kernel.rows_add_bits(by_bits, padded.data(), g.memory.data(), 1, sums.memory.data());
          kernel.rows_sample_bits(by_bits, g.memory.data(), 1, input.data(), grad.memory.data());
        }
        sums.memory.resize(cols);
        grad.memory.resize(count);
        const bool right = check_agrees("rows_dot", out, dot) && check_agrees("rows_add", sums, added) &&
                           check_agrees("rows_sample", grad, sampled);
        if (!right)
          std::cerr << "  form " << form << ", " << cols << " -> " << rows << ", rows " << begin << ".." << end << std::endl;
      }
    }
  }
}

// Layers large enough that the gradient to the input is summed in parts.
template <class Scalar>
void large_gradients() {
  Random random(27);
  for (double density : {0.1, 0.8}) {
    Linear<Scalar> linear(1, random_pattern(700, density < 0.5 ? 3001 : 501, density, random), Layout::scattered, random);
    linear.check(1);
    const std::vector<Scalar> first = linear.grad_input.values();
    linear.check(3);
    CHECK(linear.grad_input.values() == first);
  }
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
  every_form_of_columns<float>();
  every_form_of_columns<double>();
  large_gradients<float>();
  large_gradients<double>();
  return checks::result();
}
