// Scratch memory of the calling thread, kept from call to call: nothing is allocated once a thread has seen its largest layer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpl_sparse {

enum class Scratch { packed, rows, sums, in_use, values, input, count };

// At least `bytes` bytes, aligned to 64, zeroed when they were allocated. Valid until this thread asks for the same use again.
// Throws std::bad_alloc.
void* scratch_bytes(Scratch use, size_t bytes);

template <class T>
T* scratch(Scratch use, int64_t count) {
  return static_cast<T*>(scratch_bytes(use, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace mpl_sparse
