// The mask, six neighbours a symbol, in one fixed prefix code with 1, 10, 31, 15, 5, 2 codes of 4, 5, 6, 7, 8, 9 bits. First come
// the first bits of all codes, then the second bits of all, and so on: nine levels, the first four of them equally long.
//
// Everything goes by groups of six words, which are 64 symbols: a group's bits in a level fit in a word.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/bits.h"
#include "codec/words.h"

namespace mpl_sparse {

class HuffmanTally {
 public:
  explicit HuffmanTally(int64_t numel);
  void add(const uint64_t* words, int64_t count);  // whole groups, at most words_at_once; zeros past the end
  int64_t bytes() const;

 private:
  int64_t symbols_;
  int64_t longer_[5] = {0, 0, 0, 0, 0};  // codes of more than 4, 5, 6, 7, 8 bits
};

class HuffmanWriter {
 public:
  HuffmanWriter(uint8_t* packed, int64_t size, int64_t numel);
  void add(const uint64_t* words, int64_t count);  // whole groups; zeros past the end
  void finish();

 private:
  void append(int64_t bit, uint64_t bits, int count);

  uint8_t* packed_;
  int64_t size_;
  int64_t symbols_;
  int64_t done_ = 0;                   // symbols
  std::vector<uint64_t> levels_[5];    // the fifth level and on, which begin where the one before ends
  int64_t ends_[5] = {0, 0, 0, 0, 0};  // of these, in bits
};

class HuffmanReader : public WordReader {
 public:
  HuffmanReader(const uint8_t* packed, int64_t size, int64_t numel);
  void read(uint64_t* words, int64_t count) override;
  void finish() override;

 private:
  void find_levels();
  void read_group();
  uint8_t longest_symbol(unsigned seven);
  uint64_t bits(int64_t bit) const { return load_bits(packed_, end_, bit); }

  const uint8_t* packed_;
  const uint8_t* end_;
  int64_t symbols_;
  int64_t left_;   // symbols
  int64_t at_[9];  // the next bit of each level
  uint64_t group_[6];
  int used_ = 6;  // words of the group
};

}  // namespace mpl_sparse
