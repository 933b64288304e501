// A mask as words of 64 neighbours, the first in the lowest bit: what all codings but Golomb's are read and written through.
#pragma once

#include <cstdint>

namespace mpl_sparse {

constexpr int64_t words_at_once = 48;  // a multiple of the six words that are 64 of huffman's symbols

class WordReader {
 public:
  virtual ~WordReader() = default;

  // The next `count` words. Bits past the end of the mask are 0, or refused.
  virtual void read(uint64_t* words, int64_t count) = 0;

  // After the last word: refuses bytes that are left, or bits in them that no writer sets.
  virtual void finish() {}
};

}  // namespace mpl_sparse
