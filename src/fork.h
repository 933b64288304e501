// Objects with locks or threads that a child of fork must not inherit: another thread may have held them at that moment.
#pragma once

#include <atomic>
#include <cstdint>

namespace mpl_sparse {

// How many forks lie between this process and the one that asked first.
uint64_t fork_generation();

// A T, made at first use, and made anew in a child of fork. The child leaks its parent's: it may be locked, or half changed.
template <class T>
class PerProcess {
 public:
  PerProcess() = default;
  PerProcess(const PerProcess&) = delete;
  PerProcess& operator=(const PerProcess&) = delete;
  ~PerProcess() {
    Made* made = made_.load();
    if (made && made->generation == fork_generation()) delete made;
  }

  T& get() {
    Made* made = made_.load(std::memory_order_acquire);
    if (made && made->generation == fork_generation()) return made->value;
    Made* fresh = new Made;
    if (made_.compare_exchange_strong(made, fresh)) return fresh->value;
    delete fresh;
    return made->value;
  }

 private:
  struct Made {
    const uint64_t generation = fork_generation();
    T value;
  };

  std::atomic<Made*> made_{nullptr};
};

}  // namespace mpl_sparse
