// The codings of positions: round trips at all densities, in pieces of all sizes; what is refused; mutants by the thousand.
//
//   test_codec [mutants of each coding]
#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>

#include "check.h"
#include "fuzz_positions.h"

using mpl_sparse::Coding;
using mpl_sparse::PositionDecoder;
using mpl_sparse::PositionEncoder;

namespace {

std::vector<int64_t> random_positions(int64_t numel, double density, std::mt19937_64& random) {
  std::bernoulli_distribution is_stored(density);
  std::vector<int64_t> positions;
  for (int64_t k = 0; k < numel; ++k) {
    if (is_stored(random)) positions.push_back(k);
  }
  return positions;
}

std::vector<uint8_t> encoded(const PositionEncoder& encoder) {
  std::vector<uint8_t> packed(encoder.size());
  encoder.write(packed.data(), encoder.size());
  return packed;
}

std::vector<int64_t> decoded(const std::vector<uint8_t>& packed, int64_t nnz, int64_t numel, const Coding& coding,
                             int64_t at_once = 1000) {
  PositionDecoder decoder(packed.data(), static_cast<int64_t>(packed.size()), nnz, numel, coding);
  std::vector<int64_t> positions, some(at_once);
  while (const int64_t count = decoder.read(some.data(), at_once)) {
    positions.insert(positions.end(), some.begin(), some.begin() + count);
  }
  return positions;
}

std::vector<Coding> codings() {
  std::vector<Coding> all{{Coding::bitmap, false, 0}, {Coding::huffman, false, 0}, {Coding::huffman, true, 0}};
  for (const bool zeros : {false, true}) {
    for (const int64_t factor : {1, 3}) {
      for (const int shift : {0, 1, 5, 23, 56}) all.push_back({Coding::golomb, zeros, factor << shift});
    }
  }
  return all;
}

void round_trips() {
  std::mt19937_64 random(1);
  for (const int64_t numel : {0, 1, 5, 6, 7, 63, 64, 65, 383, 384, 385, 5000, 70000}) {
    for (const double density : {0.0, 0.01, 0.1, 0.36, 0.5, 0.66, 0.95, 1.0}) {
      const auto positions = random_positions(numel, density, random);
      const int64_t nnz = static_cast<int64_t>(positions.size());
      const PositionEncoder smallest(positions.data(), nnz, numel);
      CHECK(decoded(encoded(smallest), nnz, numel, smallest.coding()) == positions);
      for (const Coding& coding : codings()) {
        const PositionEncoder encoder(positions.data(), nnz, numel, coding);
        CHECK(smallest.size() <= encoder.size());
        const auto packed = encoded(encoder);
        for (const int64_t at_once : {1, 64, 100, 100000}) CHECK(decoded(packed, nnz, numel, coding, at_once) == positions);
      }
    }
  }
}

void large_positions() {
  const std::vector<int64_t> positions{0, 1, Coding::max_numel / 3, Coding::max_numel - 1};
  for (const int64_t divisor : {int64_t{1} << 56, int64_t{3} << 56, int64_t{3} << 54}) {
    const Coding coding{Coding::golomb, false, divisor};
    const PositionEncoder encoder(positions.data(), 4, Coding::max_numel, coding);
    CHECK(decoded(encoded(encoder), 4, Coding::max_numel, coding) == positions);
  }
}

void refusals() {
  const std::vector<int64_t> positions{3, 3}, far{9};
  CHECK_THROWS(std::invalid_argument, "positions must increase", PositionEncoder(positions.data(), 2, 9));
  CHECK_THROWS(std::invalid_argument, "positions must increase", PositionEncoder(far.data(), 1, 9));
  CHECK_THROWS(std::invalid_argument, "numel must lie", PositionEncoder(far.data(), 1, Coding::max_numel + 1));
  CHECK_THROWS(std::invalid_argument, "nnz must lie", PositionEncoder(far.data(), 11, 10));
  CHECK_THROWS(std::invalid_argument, "divisor must be 2^b", PositionEncoder(far.data(), 1, 10, {Coding::golomb, false, 5}));
  const PositionEncoder encoder(far.data(), 1, 10);
  std::vector<uint8_t> packed(encoder.size() + 1);
  CHECK_THROWS(std::invalid_argument, "size is not", encoder.write(packed.data(), encoder.size() + 1));
  const Coding bitmap{}, golomb{Coding::golomb, false, 1}, huffman{Coding::huffman, false, 0};
  CHECK_THROWS(std::invalid_argument, "bytes are encoded", decoded({1, 2}, 2, 8, bitmap));
  CHECK_THROWS(std::invalid_argument, "beyond the end", decoded({0x80}, 1, 7, bitmap));
  CHECK_THROWS(std::invalid_argument, "positions are encoded, not 2", decoded({1}, 2, 8, bitmap));
  CHECK_THROWS(std::invalid_argument, "more than 1 positions", decoded({3}, 1, 8, bitmap));
  CHECK_THROWS(std::invalid_argument, "cannot be 9 gaps", decoded({255}, 9, 20, golomb));
  CHECK_THROWS(std::invalid_argument, "end early", decoded({1}, 2, 20, golomb));
  CHECK_THROWS(std::invalid_argument, "not below the 4 elements", decoded({0x20}, 1, 4, golomb));
  CHECK_THROWS(std::invalid_argument, "beyond the end", decoded({3}, 1, 4, golomb));
  CHECK_THROWS(std::invalid_argument, "are needed", decoded({1, 0}, 1, 4, golomb));
  CHECK_THROWS(std::invalid_argument, "symbols", decoded({}, 1, 6, huffman));
}

// Changes made to the bytes of a file: bits, bytes, numbers in the header, cuts, repetitions.
void mutate(std::vector<uint8_t>& input, std::mt19937_64& random) {
  const auto below = [&](size_t most) { return static_cast<size_t>(random() % most); };
  for (size_t changes = 1 + below(3); changes > 0; --changes) {
    const size_t at = below(below(4) ? input.size() : std::min(input.size(), sizeof(FuzzHeader)));
    switch (below(6)) {
      case 0:
      case 1:
        input[at] ^= 1 << below(8);
        break;
      case 2:
        input[at] = static_cast<uint8_t>(below(3) ? random() : below(2) * 255);
        break;
      case 3:
        input.insert(input.begin() + at, 1 + below(9), static_cast<uint8_t>(random()));
        break;
      case 4:
        if (input.size() > at + 1)
          input.erase(input.begin() + at, input.begin() + at + 1 + below(std::min<size_t>(9, input.size() - at)));
        break;
      default:
        if (input.size() > sizeof(FuzzHeader)) input[offsetof(FuzzHeader, nnz)] += static_cast<uint8_t>(below(3)) - 1;
    }
    if (input.empty()) return;
  }
}

void mutants(int64_t count) {
  std::mt19937_64 random(2);
  for (const Coding& coding : codings()) {
    int64_t accepted = 0;
    std::vector<std::vector<uint8_t>> seeds;
    for (const int64_t numel : {7, 100, 700, 3000}) {
      for (const double density : {0.02, 0.1, 0.35, 0.5, 0.65, 0.95}) {
        const auto positions = random_positions(numel, density, random);
        const PositionEncoder encoder(positions.data(), static_cast<int64_t>(positions.size()), numel, coding);
        if (encoder.size() < 4000) seeds.push_back(fuzz_input(encoder.coding(), positions.size(), numel, encoded(encoder)));
      }
    }
    if (coding.divisor <= 96) {  // with restart points
      const auto positions = random_positions(80000, coding.zeros ? 0.5 : 0.45, random);
      const PositionEncoder encoder(positions.data(), static_cast<int64_t>(positions.size()), 80000, coding);
      if (count > 10000) seeds.push_back(fuzz_input(encoder.coding(), positions.size(), 80000, encoded(encoder)));
    }
    for (int64_t k = 0; k < count; ++k) {
      auto input = seeds[k % seeds.size()];
      if (k < static_cast<int64_t>(seeds.size())) {
        CHECK(fuzz_one(input.data(), input.size()));
        continue;
      }
      mutate(input, random);
      accepted += fuzz_one(input.data(), input.size());
    }
    // A bit that moves a position moves it to another right one, so some are accepted, and their bytes are the only ones.
    CHECK(accepted < count);
  }
}

}  // namespace

int main(int argc, char** argv) {
  round_trips();
  large_positions();
  refusals();
  mutants(argc > 1 ? std::stoll(argv[1]) : 2000);
  return checks::result();
}
