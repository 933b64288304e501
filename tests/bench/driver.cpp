// Runs one fixed case of the core a number of times on one thread: something small to count instructions of, under an emulator or
// a profiler. Weights and inputs come from a fixed generator, so counts repeat; what N + 1 calls cost more than N is one call.
//
//   driver CASE BACKEND SPARSITY CALLS [float|double]    prints nonzeros, multiply-adds (padding included) and a checksum
//   driver --list                                        prints the names of the cases
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "mpl_sparse/backend.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/matmul.h"
#include "mpl_sparse/pattern.h"
#include "mpl_sparse/tuning.h"

namespace {

using mpl_sparse::Conv2dGeometry;
using mpl_sparse::Images;
using mpl_sparse::Matrix;
using mpl_sparse::Pattern;
using mpl_sparse::Vector;

enum class Operation { forward, grad_input, grad_weight };

// A linear layer is written as a 1x1 case of size 0.
struct Case {
  const char* name;
  Operation operation;
  int64_t batch, in_channels, out_channels, kernel, size, stride;
};

constexpr Case kCases[] = {
    {"conv3x3_256_14", Operation::forward, 1, 256, 256, 3, 14, 1},
    {"conv3x3_64_56", Operation::forward, 1, 64, 64, 3, 56, 1},
    {"conv3x3_512_7", Operation::forward, 1, 512, 512, 3, 7, 1},
    {"conv3x3s2_128_56", Operation::forward, 1, 128, 128, 3, 56, 2},
    {"conv5x5_32_64_14", Operation::forward, 1, 32, 64, 5, 14, 1},
    {"conv1x1_1024_256_14", Operation::forward, 1, 1024, 256, 1, 14, 1},
    {"conv3x3_256_14.grad_input", Operation::grad_input, 1, 256, 256, 3, 14, 1},
    {"conv3x3_256_14.grad_weight", Operation::grad_weight, 1, 256, 256, 3, 14, 1},
    {"linear_3136_2048", Operation::forward, 1, 3136, 2048, 1, 0, 1},
    {"linear_3136_2048_batch32", Operation::forward, 32, 3136, 2048, 1, 0, 1},
};

class Random {
 public:
  // In [0, 1).
  double next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(state_ >> 33) / 2147483648.0;
  }
  template <class Scalar>
  std::vector<Scalar> values(int64_t count) {
    std::vector<Scalar> all(count);
    for (Scalar& value : all) value = static_cast<Scalar>(2 * next() - 1);
    return all;
  }

 private:
  uint64_t state_ = 1;
};

std::shared_ptr<const Pattern> random_pattern(int64_t rows, int64_t cols, double sparsity, Random& random) {
  std::vector<int32_t> row_ptr{0}, col_idx;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      if (random.next() >= sparsity) col_idx.push_back(static_cast<int32_t>(col));
    }
    row_ptr.push_back(static_cast<int32_t>(col_idx.size()));
  }
  return Pattern::from_csr(rows, cols, row_ptr.data(), static_cast<int64_t>(row_ptr.size()), col_idx.data(),
                           static_cast<int64_t>(col_idx.size()));
}

template <class Scalar>
Vector<Scalar> vector(std::vector<std::remove_const_t<Scalar>>& memory) {
  return {memory.data(), static_cast<int64_t>(memory.size()), 1};
}

template <class Scalar>
Images<Scalar> images(std::vector<std::remove_const_t<Scalar>>& memory, int64_t batch, int64_t channels, int64_t size) {
  return {memory.data(), {batch, channels, size, size}, {channels * size * size, size * size, size, 1}};
}

template <class Scalar>
Matrix<Scalar> matrix(std::vector<std::remove_const_t<Scalar>>& memory, int64_t batch, int64_t features) {
  return {memory.data(), {batch, features}, {features, 1}};
}

template <class Scalar>
void run(const Case& c, double sparsity, int64_t calls) {
  Random random;
  const bool linear = c.size == 0;
  const std::shared_ptr<const Pattern> pattern =
      random_pattern(c.out_channels, c.in_channels * c.kernel * c.kernel, sparsity, random);
  Conv2dGeometry g;
  g.batch = c.batch;
  g.in_channels = c.in_channels;
  g.out_channels = c.out_channels;
  g.in_height = g.in_width = linear ? 1 : c.size;
  g.kernel_height = g.kernel_width = c.kernel;
  g.stride_height = g.stride_width = c.stride;
  g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = c.kernel / 2;
  const int64_t out_size = g.out_height();
  std::vector<Scalar> values = random.values<Scalar>(pattern->nnz()), bias = random.values<Scalar>(c.out_channels);
  std::vector<Scalar> input = random.values<Scalar>(c.batch * c.in_channels * g.in_height * g.in_width);
  std::vector<Scalar> output = random.values<Scalar>(c.batch * c.out_channels * out_size * out_size);

  const auto call = [&] {
    if (linear) {
      mpl_sparse::linear_forward<Scalar>(*pattern, vector<const Scalar>(values),
                                         matrix<const Scalar>(input, c.batch, c.in_channels), vector<const Scalar>(bias),
                                         matrix<Scalar>(output, c.batch, c.out_channels), 1);
    } else if (c.operation == Operation::forward) {
      mpl_sparse::conv2d_forward<Scalar>(*pattern, g, vector<const Scalar>(values),
                                         images<const Scalar>(input, c.batch, c.in_channels, c.size), vector<const Scalar>(bias),
                                         images<Scalar>(output, c.batch, c.out_channels, out_size), 1);
    } else if (c.operation == Operation::grad_input) {
      mpl_sparse::conv2d_grad_input<Scalar>(*pattern, g, vector<const Scalar>(values),
                                            images<const Scalar>(output, c.batch, c.out_channels, out_size),
                                            images<Scalar>(input, c.batch, c.in_channels, c.size), 1);
    } else {
      mpl_sparse::conv2d_grad_weight<Scalar>(*pattern, g, images<const Scalar>(input, c.batch, c.in_channels, c.size),
                                             images<const Scalar>(output, c.batch, c.out_channels, out_size),
                                             vector<Scalar>(values), 1);
    }
  };
  for (int64_t i = 0; i < calls; ++i) call();

  double checksum = 0;
  for (const std::vector<Scalar>* memory : {&values, &input, &output}) {
    for (const Scalar value : *memory) checksum += static_cast<double>(value);
  }
  std::printf("case %s backend %s nonzeros %lld multiply_adds %lld checksum %.6g\n", c.name, mpl_sparse::backend().c_str(),
              static_cast<long long>(pattern->nnz()), static_cast<long long>(pattern->nnz() * c.batch * out_size * out_size),
              checksum);
}

int usage() {
  std::fprintf(stderr, "usage: driver CASE BACKEND SPARSITY CALLS [float|double], or driver --list\n");
  return 2;
}

int run_named(int count, char** words) {
  if (count < 5 || count > 6) return usage();
  const double sparsity = std::atof(words[3]);
  const int64_t calls = std::atoll(words[4]);
  const std::string dtype = count == 6 ? words[5] : "float";
  if (sparsity < 0 || sparsity > 1 || calls < 0 || (dtype != "float" && dtype != "double")) return usage();
  mpl_sparse::set_backend(words[2]);
  mpl_sparse::set_tuning(false);  // every call takes the model's own choice of tiles
  for (const Case& c : kCases) {
    if (std::strcmp(c.name, words[1]) != 0) continue;
    if (dtype == "float") {
      run<float>(c, sparsity, calls);
    } else {
      run<double>(c, sparsity, calls);
    }
    return 0;
  }
  std::fprintf(stderr, "there is no case '%s'; driver --list prints them\n", words[1]);
  return 2;
}

}  // namespace

int main(int count, char** words) {
  if (count == 2 && std::strcmp(words[1], "--list") == 0) {
    for (const Case& c : kCases) std::puts(c.name);
    return 0;
  }
  try {
    return run_named(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
