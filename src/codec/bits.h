// Bits in memory, the lowest of each byte first: reads that stay within the bytes, and a writer that refuses to leave them.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace mpl_sparse {

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read from memory as they are: this needs a little-endian machine"
#endif

[[noreturn]] inline void refuse_bits(const std::string& what) { throw std::invalid_argument(what); }
[[noreturn]] inline void refuse_size() { refuse_bits("size is not that of the encoded positions"); }

// Eight bytes, all of them readable.
inline uint64_t load_word(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, 8);
  return word;
}

// The bytes from `at` to `end`, at most eight; those past the end are zeros.
inline uint64_t load_word(const uint8_t* at, const uint8_t* end) {
  if (end - at >= 8) return load_word(at);
  uint64_t word = 0;
  if (at < end) std::memcpy(&word, at, end - at);
  return word;
}

// The 64 bits from bit number `bit`; those past the end are zeros.
inline uint64_t load_bits(const uint8_t* begin, const uint8_t* end, int64_t bit) {
  if (bit >= (end - begin) * 8) return 0;
  const uint8_t* at = begin + (bit >> 3);
  const int shift = bit & 7;
  const uint64_t low = load_word(at, end) >> shift;
  return shift && end - at > 8 ? low | uint64_t{at[8]} << (64 - shift) : low;
}

inline int lowest_bit(uint64_t word) { return __builtin_ctzll(word); }

inline uint64_t low_bits(int64_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// Without the instruction, which not every processor has, the compiler would call a function.
inline int count_ones(uint64_t word) {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  return static_cast<int>(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56);
}

constexpr int64_t bytes_of(int64_t bits) { return bits / 8 + (bits % 8 != 0); }

// Appends bits to [at, end), a word at a time: either `put` or `unary`.
class BitWriter {
 public:
  BitWriter() = default;
  BitWriter(uint8_t* at, int64_t size) : at_(at), end_(at + size) {}

  // The lowest `count` bits of `bits`, whose others are zero.
  void put(uint64_t bits, int count) {
    word_ |= bits << used_;
    used_ += count;
    if (used_ >= 64) {
      store(word_);
      used_ -= 64;
      word_ = used_ ? bits >> (count - used_) : 0;
    }
  }

  // `zeros` bits 0, then a bit 1.
  void unary(uint64_t zeros) {
    zeros += used_;
    while (zeros >= 64) {
      store(word_);
      word_ = 0;
      zeros -= 64;
    }
    word_ |= uint64_t{1} << zeros;
    used_ = static_cast<int>(zeros) + 1;
  }

  // Zeros up to a whole byte, which must be the last one.
  void finish() {
    const int bytes = (used_ + 7) / 8;
    if (end_ - at_ != bytes) refuse_size();
    if (bytes) std::memcpy(at_, &word_, bytes);
  }

 private:
  void store(uint64_t word) {
    if (end_ - at_ < 8) refuse_size();
    std::memcpy(at_, &word, 8);
    at_ += 8;
  }

  uint8_t* at_ = nullptr;
  uint8_t* end_ = nullptr;
  uint64_t word_ = 0;
  int used_ = 0;
};

}  // namespace mpl_sparse
