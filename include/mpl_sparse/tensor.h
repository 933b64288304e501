// Borrowed views of strided arrays. Sizes and strides count elements; strides may be zero or negative.
#pragma once

#include <cstdint>

namespace mpl_sparse {

template <class Scalar>
struct Vector {
  Scalar* data = nullptr;  // null when size is 0, or when an optional argument is absent
  int64_t size = 0;
  int64_t stride = 1;
};

template <class Scalar>
struct Matrix {
  Scalar* data = nullptr;
  int64_t size[2] = {0, 0};  // (batch, features)
  int64_t stride[2] = {0, 0};
};

template <class Scalar>
struct Images {
  Scalar* data = nullptr;
  int64_t size[4] = {0, 0, 0, 0};  // (batch, channels, height, width)
  int64_t stride[4] = {0, 0, 0, 0};
};

}  // namespace mpl_sparse
