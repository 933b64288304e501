// The DLPack C ABI, versions 0.x and 1.x (https://dmlc.github.io/dlpack), and its tensors as the core's views.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "mpl_sparse/tensor.h"

extern "C" {

typedef struct {
  int32_t device_type;
  int32_t device_id;
} DLDevice;

typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // null: compact, row-major
  uint64_t byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor* self);
} DLManagedTensor;

typedef struct {
  uint32_t major;
  uint32_t minor;
} DLPackVersion;

typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned* self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;
}

namespace mpl_sparse {

template <class T>
T* dlpack_data(const DLTensor* tensor) {
  return reinterpret_cast<T*>(static_cast<char*>(tensor->data) + tensor->byte_offset);
}

// The stride of one axis, in elements.
inline int64_t dlpack_stride(const DLTensor* tensor, int axis) {
  if (tensor->strides) return tensor->strides[axis];
  int64_t stride = 1;
  for (int later = axis + 1; later < tensor->ndim; ++later) stride *= tensor->shape[later];
  return stride;
}

// A null tensor is an optional argument that is absent. An empty one is present, though it may have no data.
template <class T>
Vector<T> dlpack_vector(const DLTensor* tensor) {
  static std::remove_const_t<T> nothing;
  if (!tensor) return {};
  return {tensor->data ? dlpack_data<T>(tensor) : &nothing, tensor->shape[0], dlpack_stride(tensor, 0)};
}

template <class T>
Matrix<T> dlpack_matrix(const DLTensor* tensor) {
  Matrix<T> matrix;
  matrix.data = dlpack_data<T>(tensor);
  for (int axis = 0; axis < 2; ++axis) {
    matrix.size[axis] = tensor->shape[axis];
    matrix.stride[axis] = dlpack_stride(tensor, axis);
  }
  return matrix;
}

template <class T>
Images<T> dlpack_images(const DLTensor* tensor) {
  Images<T> images;
  images.data = dlpack_data<T>(tensor);
  for (int axis = 0; axis < 4; ++axis) {
    images.size[axis] = tensor->shape[axis];
    images.stride[axis] = dlpack_stride(tensor, axis);
  }
  return images;
}

// A managed int32 vector that owns a copy of data[0 .. size); null when there is no memory.
inline DLManagedTensor* dlpack_copy_int32(const int32_t* data, int64_t size) {
  struct Owned {
    DLManagedTensor managed;
    int64_t shape[1];
    int64_t strides[1];
    int32_t elements[1];
  };
  Owned* owned = static_cast<Owned*>(std::malloc(sizeof(Owned) + static_cast<size_t>(size) * sizeof(int32_t)));
  if (!owned) return nullptr;
  for (int64_t i = 0; i < size; ++i) owned->elements[i] = data[i];
  owned->shape[0] = size;
  owned->strides[0] = 1;
  owned->managed = {{owned->elements, {1, 0}, 1, {0, 32, 1}, owned->shape, owned->strides, 0}, owned, [](DLManagedTensor* self) {
                      std::free(self->manager_ctx);
                    }};
  return &owned->managed;
}

}  // namespace mpl_sparse
