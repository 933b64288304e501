#include "cpu.h"

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__linux__) && defined(__arm__)
#include <sys/auxv.h>
#endif

namespace mpl_sparse {
namespace {

#if defined(__x86_64__) || defined(__i386__)

uint64_t enabled_register_state() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

std::vector<std::string> detect() {
  std::vector<std::string> found;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const uint32_t leaf1 = c;
  constexpr uint32_t kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28;
  if (!(leaf1 & kOsXsave) || !(leaf1 & kAvx)) return found;
  // Registers that the system does not save on a context switch must not be used.
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  const uint64_t state = enabled_register_state();
  if ((state & kYmm) != kYmm) return found;
  if (leaf1 & kFma) found.push_back("fma");
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  if (b & (1u << 5)) found.push_back("avx2");
  if ((state & kZmm) != kZmm) return found;
  if (b & (1u << 16)) found.push_back("avx512f");
  if (b & (1u << 17)) found.push_back("avx512dq");
  if (b & (1u << 30)) found.push_back("avx512bw");
  if (b & (1u << 31)) found.push_back("avx512vl");
  return found;
}

#elif defined(__aarch64__)

std::vector<std::string> detect() { return {"neon"}; }

#elif defined(__linux__) && defined(__arm__)

std::vector<std::string> detect() {
  constexpr unsigned long kNeon = 1ul << 12, kVfpv4 = 1ul << 16;
  const unsigned long capabilities = getauxval(AT_HWCAP);
  if ((capabilities & kNeon) && (capabilities & kVfpv4)) return {"neon"};
  return {};
}

#else

std::vector<std::string> detect() { return {}; }

#endif

}  // namespace

const std::vector<std::string>& detected_features() {
  static const std::vector<std::string> features = detect();
  return features;
}

bool cpu_has(const std::string& feature) {
  const std::vector<std::string>& features = detected_features();
  return std::find(features.begin(), features.end(), feature) != features.end();
}

}  // namespace mpl_sparse
