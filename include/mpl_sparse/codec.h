// The positions of nonzeros as few bytes: the codings of the file format mpl-sparse/1, byte for byte as
// mpl_sparse/serializer/FORMAT.md defines them.
//
// Positions are int64, strictly increasing, in [0, numel). Decoding streams: it takes O(1) memory beside what it is given and
// fills, and work in proportion to the bytes and the positions. It trusts neither the bytes nor the counts.
#pragma once

#include <cstdint>
#include <memory>

namespace mpl_sparse {

struct Coding {
  enum Kind { bitmap, huffman, golomb };
  static constexpr int max_shift = 56;
  static constexpr int64_t max_numel = int64_t{1} << 62;

  Kind kind = bitmap;
  bool zeros = false;   // whether the positions that are *not* stored are coded
  int64_t divisor = 0;  // of the gaps, for golomb: 2^b or 3 * 2^b with b at most max_shift
};

// Encodes `nnz` positions, which must outlive it. Not safe from two threads at once.
class PositionEncoder {
 public:
  // In the coding of the fewest bytes, or in the one that is given. Throws std::invalid_argument if the positions do not increase
  // within [0, numel), if numel is beyond max_numel, and for a divisor that is none. O(nnz).
  PositionEncoder(const int64_t* positions, int64_t nnz, int64_t numel);
  PositionEncoder(const int64_t* positions, int64_t nnz, int64_t numel, const Coding& coding);

  const Coding& coding() const { return coding_; }
  int64_t size() const { return size_; }  // bytes

  // Writes all bytes to `packed`, `size` of them, which must be size(); throws std::invalid_argument if it is not, or if the
  // positions have changed, and writes nowhere else. O(nnz).
  void write(uint8_t* packed, int64_t size) const;

 private:
  const int64_t* positions_;
  int64_t nnz_;
  int64_t numel_;
  Coding coding_;
  int64_t size_ = 0;
  int64_t digits_ = 0;  // of golomb's ternary digits those that are not 0
};

// Yields the positions of `size` bytes at `packed`, which must outlive it, in order. Bytes that are not exactly what
// PositionEncoder writes of nnz positions below numel are refused with std::invalid_argument, by the last call of `read` at the
// latest: only then is everything known to be right. Not safe from two threads at once.
class PositionDecoder {
 public:
  PositionDecoder(const uint8_t* packed, int64_t size, int64_t nnz, int64_t numel, const Coding& coding);
  ~PositionDecoder();
  PositionDecoder(PositionDecoder&&) = delete;

  // The next positions, at most `capacity`; fewer only at the end. Returns how many; 0 once all have been read.
  int64_t read(int64_t* positions, int64_t capacity);

  class Source;

 private:
  std::unique_ptr<Source> source_;
  int64_t left_;
  bool ended_ = false;
};

}  // namespace mpl_sparse
