#include "workspace.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace mpl_sparse {
namespace {

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

constexpr size_t kAlignment = 64;

}  // namespace

void* scratch_bytes(Scratch use, size_t bytes) {
  thread_local Buffer buffers[static_cast<int>(Scratch::count)];
  Buffer& buffer = buffers[static_cast<int>(use)];
  if (bytes > buffer.size) {
    const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    std::free(buffer.data);
    buffer.size = 0;
    buffer.data = nullptr;
    if (posix_memalign(&buffer.data, kAlignment, size) != 0) {
      buffer.data = nullptr;
      throw std::bad_alloc();
    }
    std::memset(buffer.data, 0, size);
    buffer.size = size;
  }
  return buffer.data;
}

}  // namespace mpl_sparse
