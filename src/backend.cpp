#include "mpl_sparse/backend.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cpu.h"
#include "dispatch.h"

namespace mpl_sparse {

#define MPL_SPARSE_BACKEND(name, supported) \
  namespace name {                          \
  const Kernels<float>& kernels_f32();      \
  const Kernels<double>& kernels_f64();     \
  }
#include "backends.inc"
#undef MPL_SPARSE_BACKEND

namespace {

struct Backend {
  const char* name;
  const Kernels<float>* f32;
  const Kernels<double>* f64;
};

const std::vector<Backend>& available() {
  static const std::vector<Backend> list = [] {
    std::vector<Backend> usable;
#define MPL_SPARSE_BACKEND(name, supported) \
  if (supported) usable.push_back({#name, &name::kernels_f32(), &name::kernels_f64()});
#include "backends.inc"
#undef MPL_SPARSE_BACKEND
    return usable;
  }();
  return list;
}

const Backend& find(const std::string& name, const std::string& asked_by) {
  if (name == "auto") return available().front();
  std::string names;
  for (const Backend& candidate : available()) {
    if (name == candidate.name) return candidate;
    names += std::string(names.empty() ? "" : ", ") + candidate.name;
  }
  throw std::invalid_argument(asked_by + " must be auto or a backend that this machine can run (" + names + "), got '" + name +
                              "'");
}

std::atomic<const Backend*> selected{nullptr};

const Backend& current() {
  const Backend* backend = selected.load(std::memory_order_acquire);
  if (backend) return *backend;
  const char* forced = std::getenv("MPL_SPARSE_BACKEND");
  const Backend& initial = forced && *forced ? find(forced, "the environment variable MPL_SPARSE_BACKEND") : available().front();
  // A set_backend that came in between stays.
  selected.compare_exchange_strong(backend, &initial);
  return backend ? *backend : initial;
}

}  // namespace

std::vector<std::string> backends() {
  std::vector<std::string> names;
  for (const Backend& backend : available()) names.push_back(backend.name);
  return names;
}

std::string backend() { return current().name; }

void set_backend(const std::string& name) { selected.store(&find(name, "name"), std::memory_order_release); }

std::vector<std::string> cpu_features() { return detected_features(); }

template <>
const Kernels<float>& kernels<float>() {
  return *current().f32;
}

template <>
const Kernels<double>& kernels<double>() {
  return *current().f64;
}

}  // namespace mpl_sparse
