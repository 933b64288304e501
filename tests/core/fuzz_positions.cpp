// A fuzz target: any bytes are refused, or they are exactly what the positions that they decode to are encoded as.
//
// The input is a coding, counts, and the packed bytes. libFuzzer runs it where the compiler is Clang (-DMPL_SPARSE_FUZZ=ON), and
// test_codec.cpp everywhere.
#include "fuzz_positions.h"

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <stdexcept>

namespace {

constexpr int64_t largest_numel = 1 << 20;  // so that one input takes no longer than a moment

void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "broken: " << what << std::endl;
  std::abort();
}

}  // namespace

std::vector<uint8_t> fuzz_input(const mpl_sparse::Coding& coding, int64_t nnz, int64_t numel,
                                const std::vector<uint8_t>& packed) {
  FuzzHeader header{};
  header.kind = static_cast<uint8_t>(coding.kind | coding.zeros << 2);
  header.divisor = coding.divisor;
  header.nnz = static_cast<uint32_t>(nnz);
  header.numel = static_cast<uint32_t>(numel);
  std::vector<uint8_t> input(sizeof header + packed.size());
  std::memcpy(input.data(), &header, sizeof header);
  if (!packed.empty()) std::memcpy(input.data() + sizeof header, packed.data(), packed.size());
  return input;
}

// Returns 1 for what is accepted, which libFuzzer takes for 0.
int fuzz_one(const uint8_t* data, size_t size) {
  using namespace mpl_sparse;
  FuzzHeader header;
  if (size < sizeof header) return 0;
  std::memcpy(&header, data, sizeof header);
  const Coding coding{static_cast<Coding::Kind>((header.kind & 3) % 3), (header.kind & 4) != 0, header.divisor};
  const int64_t numel = header.numel % (largest_numel + 1), nnz = header.nnz % (largest_numel + 1);
  // In memory of its own, so that a byte too many is seen.
  const std::vector<uint8_t> packed(data + sizeof header, data + size);
  std::vector<int64_t> positions;
  try {
    PositionDecoder decoder(packed.data(), static_cast<int64_t>(packed.size()), nnz, numel, coding);
    std::vector<int64_t> some(1 + header.kind % 97);
    while (const int64_t count = decoder.read(some.data(), static_cast<int64_t>(some.size()))) {
      require(count <= static_cast<int64_t>(some.size()), "more positions than there is room for");
      positions.insert(positions.end(), some.begin(), some.begin() + count);
    }
  } catch (const std::invalid_argument&) {
    return 0;
  }
  require(static_cast<int64_t>(positions.size()) == nnz, "as many positions as were asked for");
  const PositionEncoder encoder(positions.data(), nnz, numel, coding);  // which checks that they increase below numel
  std::vector<uint8_t> again(encoder.size());
  encoder.write(again.data(), encoder.size());
  require(again == packed, "one encoding of the positions only");
  if (coding.zeros && nnz <= numel - nnz) return 1;  // which the format does not have
  require(PositionEncoder(positions.data(), nnz, numel).size() <= encoder.size(), "no coding smaller than the smallest");
  return 1;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz_one(data, size);
  return 0;
}
