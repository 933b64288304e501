// Golomb-coded gaps between positions. The divisor is 2^b or 3 * 2^b, so that a remainder is b bits, after a ternary digit or
// not.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/bits.h"

namespace mpl_sparse {

constexpr int64_t gaps_between_restarts = 32768;
constexpr int64_t gaps_at_once = 1024;  // they stay in the cache of the first level

// Of the restart points.
constexpr int64_t golomb_restart_bytes(int64_t count) { return count ? 16 * ((count - 1) / gaps_between_restarts) : 0; }

struct Divisor {
  int shift;
  bool ternary;

  int64_t value() const { return int64_t{ternary ? 3 : 1} << shift; }
};

// Throws std::invalid_argument unless it is one.
Divisor divisor_of(int64_t value);

// What gaps cost, in bytes, with six divisors at once: 2^b and 3 * 2^b for three b each.
class GolombTally {
 public:
  // The least b of each kind.
  GolombTally(int power_shift, int ternary_shift) : shifts_{power_shift, ternary_shift} {}
  void add(const uint64_t* gaps, int64_t count);
  int64_t bytes(Divisor divisor) const;
  int64_t digits(Divisor divisor) const { return divisor.ternary ? digits_[divisor.shift - shifts_[1]] : 0; }  // not 0
  // Whether the positions increase: what is behind the one before has a gap that wraps.
  bool increase() const { return all_ >> 63 == 0; }
  bool knows(Divisor divisor) const {
    return shifts_[divisor.ternary] <= divisor.shift && divisor.shift <= shifts_[divisor.ternary] + 2;
  }

 private:
  template <class Gap>
  void tally(const Gap* gaps, int64_t count);

  int shifts_[2];
  int64_t count_ = 0;
  uint64_t all_ = 0;  // gaps, or-ed
  int64_t quotients_[2][3] = {};
  int64_t digits_[3] = {};  // that are not 0
};

class GolombWriter {
 public:
  // `digits` is the number of ternary digits that are not 0.
  GolombWriter(uint8_t* packed, int64_t size, int64_t count, int64_t digits, Divisor divisor);
  void add(const uint64_t* gaps, int64_t count);
  void finish();

 private:
  template <bool ternary>
  void write(const uint64_t* gaps, int64_t count);

  Divisor divisor_;
  int64_t done_ = 0;
  int64_t next_ = 0;           // the last position + 1
  int64_t quotient_bits_ = 0;  // so far
  BitWriter restarts_, remainders_, digits_, twos_, quotients_;
};

class GolombReader {
 public:
  GolombReader(const uint8_t* packed, int64_t size, int64_t count, int64_t numel, int64_t divisor);
  GolombReader(GolombReader&&) = default;

  // The next positions, at most `capacity`; fewer only at the end.
  int64_t read(int64_t* positions, int64_t capacity);

 private:
  template <bool ternary>
  void run(int64_t* positions, int64_t count);
  void check_restart() const;
  void finish() const;

  Divisor divisor_;
  int64_t count_, numel_;
  int64_t done_ = 0;
  int64_t next_ = 0;             // the last position + 1
  int64_t quotient_bits_ = 0;    // so far
  std::vector<uint8_t> padded_;  // a copy of few bytes, so that eight can be read from each of them
  const uint8_t* restarts_;
  const uint8_t* remainders_;
  const uint8_t* digits_ = nullptr;
  const uint8_t* twos_ = nullptr;
  int64_t two_ = 0;  // how many digits were not 0
  const uint8_t* quotients_;
  const uint8_t* end_;
  const uint8_t* at_;        // of the quotients' next word
  uint64_t word_ = 0;        // the bits 1 of the one before that have not been read
  uint64_t word_bit_ = -64;  // the number of the first bit of that
};

}  // namespace mpl_sparse
