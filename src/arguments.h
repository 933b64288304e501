// Checks of the views that callers hand in, each naming the argument.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "mpl_sparse/tensor.h"

namespace mpl_sparse {

inline std::string shape_text(const int64_t* size, int64_t rank) {
  std::string text = "(";
  for (int64_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(size[i]);
  return text + (rank == 1 ? ",)" : ")");
}

inline void check_shape(const char* name, const int64_t* size, std::initializer_list<int64_t> expected) {
  const int64_t rank = static_cast<int64_t>(expected.size());
  for (int64_t i = 0; i < rank; ++i) {
    if (size[i] != expected.begin()[i]) {
      throw std::invalid_argument(std::string(name) + " must have shape " + shape_text(expected.begin(), rank) + ", got " +
                                  shape_text(size, rank));
    }
  }
}

template <class Scalar>
void check_values(const char* name, const Vector<Scalar>& values, int64_t nnz) {
  check_shape(name, &values.size, {nnz});
  if (nnz > 1 && values.stride != 1) {
    throw std::invalid_argument(std::string(name) + " must be contiguous, got stride " + std::to_string(values.stride));
  }
}

template <class Scalar>
void check_bias(const Vector<Scalar>& bias, int64_t rows) {
  if (bias.data) check_shape("bias", &bias.size, {rows});
}

}  // namespace mpl_sparse
