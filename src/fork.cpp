#include "fork.h"

#include <pthread.h>

namespace mpl_sparse {
namespace {

std::atomic<uint64_t> generation{0};

}  // namespace

uint64_t fork_generation() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++generation; });
  (void)registered;
  return generation.load(std::memory_order_relaxed);
}

}  // namespace mpl_sparse
