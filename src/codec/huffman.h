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

// The codes of a group by levels: bit k of level[n] is bit n of the code of symbol k, or 0 if that has fewer bits. has[n] tells
// which codes have a bit n: those that begin with 0001 have more than four, then come 01100, 110111, 1111101, 11111111.
struct HuffmanLevels {
  uint64_t level[8];
  uint64_t has[9];

  void find_4() { has[4] = level[0] | level[1] | level[2] | level[3]; }
  void find_5() { has[5] = level[0] | (level[1] & level[2]); }
  void find_6() { has[6] = level[0] & level[1] & (level[2] | (level[3] & level[4] & level[5])); }
  void find_7() { has[7] = level[0] & level[1] & level[2] & level[3] & level[4] & (level[5] | level[6]); }
  void find_8() { has[8] = has[7] & level[5] & level[6] & level[7]; }
};

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
  void keep(int level, uint64_t bits, int count);

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
  void read_first(HuffmanLevels& group, int64_t first) const;
  void read_next(HuffmanLevels& group);
  void read_level(HuffmanLevels& group, int k);
  void read_group();
  uint64_t bits(int64_t bit) const { return load_bits(packed_, end_, bit); }

  const uint8_t* packed_;
  const uint8_t* end_;
  int64_t symbols_;
  int64_t done_ = 0;  // symbols
  int64_t at_[9];     // the next bit of each level
  uint64_t group_[6];
  int used_ = 6;  // words of the group
};

}  // namespace mpl_sparse
