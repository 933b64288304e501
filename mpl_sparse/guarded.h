// The core's functions as _core.pyx calls them without the GIL: an exception comes back as a value.
//
// While Python up to 3.13 ends, a daemon thread that asks for the GIL again is unwound by pthread_exit. Where the C++ library is
// linked in, as in our wheels, that unwinder and ours are two, and a frame of ours that catches or cleans up would crash. So the
// functions that take the GIL again have no such frame: what can throw is called from here, out of line.
#pragma once

#include <Python.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>

#include "mpl_sparse/codec.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/matmul.h"
#include "mpl_sparse/pattern.h"

namespace mpl_sparse {
namespace guarded {

// What was thrown: a class of Python's (borrowed; null for nothing), and what it says (owned; null for want of memory).
struct Failure {
  PyObject* error;
  char* message;
};

template <class Call>
Failure guard(Call call) noexcept {
  try {
    call();
    return {nullptr, nullptr};
  } catch (const std::bad_alloc& thrown) {
    return {PyExc_MemoryError, strdup(thrown.what())};
  } catch (const std::invalid_argument& thrown) {
    return {PyExc_ValueError, strdup(thrown.what())};
  } catch (const std::exception& thrown) {
    return {PyExc_RuntimeError, strdup(thrown.what())};
  } catch (...) {
    return {PyExc_RuntimeError, strdup("unknown exception of the core")};
  }
}

// With the GIL. Raises what is in `failure` and returns -1, or returns 0.
[[gnu::noinline]] inline int raise(Failure failure) noexcept {
  if (!failure.error) return 0;
  PyErr_SetString(failure.error, failure.message ? failure.message : "out of memory");
  free(failure.message);
  return -1;
}

#define MPL_SPARSE_GUARDED(function)                                           \
  template <class Scalar, class... Arguments>                                  \
  [[gnu::noinline]] Failure function(const Arguments&... arguments) noexcept { \
    return guard([&] { ::mpl_sparse::function<Scalar>(arguments...); });       \
  }
MPL_SPARSE_GUARDED(conv2d_forward)
MPL_SPARSE_GUARDED(conv2d_grad_input)
MPL_SPARSE_GUARDED(conv2d_grad_weight)
MPL_SPARSE_GUARDED(linear_forward)
MPL_SPARSE_GUARDED(linear_grad_input)
MPL_SPARSE_GUARDED(linear_grad_weight)
#undef MPL_SPARSE_GUARDED

// Pattern::from_csr into a new handle, which the caller deletes.
[[gnu::noinline]] inline Failure pattern_from_csr(std::shared_ptr<const Pattern>** made, int64_t rows, int64_t cols,
                                                  const int32_t* row_ptr, int64_t row_ptr_size, const int32_t* col_idx,
                                                  int64_t nnz) noexcept {
  return guard(
      [&] { *made = new std::shared_ptr<const Pattern>(Pattern::from_csr(rows, cols, row_ptr, row_ptr_size, col_idx, nnz)); });
}

[[gnu::noinline]] inline Failure transposed(const TransposedPattern** made, const Pattern& pattern) noexcept {
  return guard([&] { *made = &pattern.transposed(); });
}

// Gives an empty `handle` what was made and returns true; otherwise drops it.
[[gnu::noinline]] inline bool adopt(std::shared_ptr<const Pattern>& handle, std::shared_ptr<const Pattern>* made) noexcept {
  const bool empty = !handle;
  if (empty) handle.swap(*made);
  delete made;
  return empty;
}

[[gnu::noinline]] inline void share(std::shared_ptr<const Pattern>& handle, const TransposedPattern* transposed) noexcept {
  handle = transposed->pattern;
}

// Into a new encoder, which the caller deletes; in the smallest coding if none is given.
[[gnu::noinline]] inline Failure position_encoder(PositionEncoder** made, const int64_t* positions, int64_t nnz, int64_t numel,
                                                  const Coding* coding) noexcept {
  return guard(
      [&] { *made = coding ? new PositionEncoder(positions, nnz, numel, *coding) : new PositionEncoder(positions, nnz, numel); });
}

[[gnu::noinline]] inline Failure write_positions(const PositionEncoder& encoder, uint8_t* packed, int64_t size) noexcept {
  return guard([&] { encoder.write(packed, size); });
}

// Into a new decoder, which the caller deletes.
[[gnu::noinline]] inline Failure position_decoder(PositionDecoder** made, const uint8_t* packed, int64_t size, int64_t nnz,
                                                  int64_t numel, const Coding& coding) noexcept {
  return guard([&] { *made = new PositionDecoder(packed, size, nnz, numel, coding); });
}

[[gnu::noinline]] inline Failure read_positions(int64_t* count, PositionDecoder& decoder, int64_t* positions,
                                                int64_t capacity) noexcept {
  return guard([&] { *count = decoder.read(positions, capacity); });
}

}  // namespace guarded
}  // namespace mpl_sparse
