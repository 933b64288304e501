#include "mpl_sparse/codec.h"

#include <algorithm>
#include <string>

#include "codec/bits.h"
#include "codec/golomb.h"
#include "codec/huffman.h"
#include "codec/words.h"

namespace mpl_sparse {
namespace {

void check_counts(int64_t nnz, int64_t numel) {
  if (numel < 0 || numel > Coding::max_numel) {
    refuse_bits("numel must lie in [0, " + std::to_string(Coding::max_numel) + "], got " + std::to_string(numel));
  }
  if (nnz < 0 || nnz > numel) {
    refuse_bits("nnz must lie in [0, " + std::to_string(numel) + "], got " + std::to_string(nnz));
  }
}

[[noreturn]] void refuse_positions(int64_t numel) {
  refuse_bits("positions must increase strictly within [0, " + std::to_string(numel) + ")");
}

void check_positions(const int64_t* positions, int64_t nnz, int64_t numel) {
  bool increase = nnz == 0 || (positions[0] >= 0 && positions[nnz - 1] < numel);
  for (int64_t k = 1; k < nnz; ++k) increase &= positions[k - 1] < positions[k];
  if (!increase) refuse_positions(numel);
}

int64_t words_of(int64_t numel) { return numel / 64 + (numel % 64 != 0); }

// ----- what encoders read: positions as words, and words or positions as gaps -----

class Mask {
 public:
  Mask(const int64_t* positions, int64_t nnz, int64_t numel, bool zeros)
      : at_(positions), end_(positions + nnz), numel_(numel), zeros_(zeros) {}

  // The next words of the mask, or of its zeros; past the end all bits are 0.
  void read(uint64_t* words, int64_t count) {
    for (int64_t k = 0; k < count; ++k, first_ += 64) {
      uint64_t word = 0;
      for (; at_ < end_ && place() < 64; ++at_) word |= uint64_t{1} << place();
      if (zeros_) word = first_ < numel_ ? ~word & low_bits(numel_ - first_) : 0;
      words[k] = word;
    }
  }

 private:
  uint64_t place() const { return static_cast<uint64_t>(*at_) - first_; }  // positions that have changed may be anything

  const int64_t* at_;
  const int64_t* end_;
  int64_t first_ = 0;
  int64_t numel_;
  bool zeros_;
};

// Calls visit(words, count) for all words of the mask, count a multiple of six.
template <class Visit>
void each_words(Mask mask, int64_t numel, Visit visit) {
  uint64_t words[words_at_once];
  for (int64_t left = words_of(numel); left > 0; left -= words_at_once) {
    const int64_t count = left < words_at_once ? (left + 5) / 6 * 6 : words_at_once;
    mask.read(words, count);
    visit(words, count);
  }
}

// Calls visit(gaps, count) for the gaps between the positions, or between those that are not stored.
template <class Visit>
void each_gaps(const int64_t* positions, int64_t nnz, int64_t numel, bool zeros, Visit visit) {
  uint64_t gaps[gaps_at_once];
  uint64_t next = 0;
  if (!zeros) {
    for (; nnz > 0; nnz -= gaps_at_once, positions += gaps_at_once) {
      const int64_t count = std::min(nnz, gaps_at_once);
      for (int64_t k = 0; k < count; ++k) {
        const uint64_t position = positions[k];
        gaps[k] = position - next;
        next = position + 1;
      }
      visit(gaps, count);
    }
    return;
  }
  static_assert(gaps_at_once >= 64, "");
  Mask mask(positions, nnz, numel, true);
  int64_t count = 0;
  for (int64_t first = 0; first < numel; first += 64) {
    uint64_t word;
    mask.read(&word, 1);
    if (count > gaps_at_once - 64) {
      visit(gaps, count);
      count = 0;
    }
    for (; word; word &= word - 1) {
      const uint64_t position = first + lowest_bit(word);
      gaps[count++] = position - next;
      next = position + 1;
    }
  }
  if (count) visit(gaps, count);
}

// ----- sizes -----

int64_t huffman_size(const int64_t* positions, int64_t nnz, int64_t numel, bool zeros) {
  HuffmanTally tally(numel);
  each_words(Mask(positions, nnz, numel, zeros), numel, [&](const uint64_t* words, int64_t count) { tally.add(words, count); });
  return tally.bytes();
}

// No more bytes than it takes: a symbol of k ones takes 4 + k / 2 bits or more, and 3 + k or more.
int64_t huffman_at_least(int64_t coded, int64_t numel) {
  const int64_t symbols = numel / 6;
  return std::max(4 * symbols + coded / 2, 3 * symbols + coded) / 8;
}

GolombTally golomb_tally(const int64_t* positions, int64_t nnz, int64_t numel, bool zeros, int power_shift, int ternary_shift) {
  const auto first = [](int shift) { return std::min(std::max(shift, 0), Coding::max_shift - 2); };
  GolombTally tally(first(power_shift), first(ternary_shift));
  each_gaps(positions, nnz, numel, zeros, [&](const uint64_t* gaps, int64_t count) { tally.add(gaps, count); });
  return tally;
}

// The divisor of the fewest bytes. A pass over the gaps tells three divisors of each kind; the first is made around those that
// are best for geometrically distributed gaps of the same mean, and bounds on the others mostly show that no other pass is
// needed.
class GolombSearch {
 public:
  GolombSearch(const int64_t* positions, int64_t nnz, int64_t numel, bool zeros)
      : positions_(positions), nnz_(nnz), numel_(numel), zeros_(zeros), tally_(0, 0) {
    int64_t end = nnz ? positions[nnz - 1] + 1 : 0;
    if (zeros) {  // of the positions that are not stored
      end = numel;
      for (int64_t k = nnz - 1; k >= 0 && positions[k] == end - 1; --k) --end;
    }
    count_ = static_cast<double>(zeros ? numel - nnz : nnz);
    sum_ = static_cast<double>(end) - count_;
    // With x = p^(2^b), p the chance that a gap goes on, 2^(b + 1) is better from x = 0.618 on, where x^2 + x = 1, and
    // 3 * 2^(b + 1) from x = 0.845 on; -1 / ln p is about the mean + 1/2.
    const double mean = count_ > 0 ? sum_ / count_ + 0.5 : 0;
    take(shift_of(0.481 * mean) - 1, shift_of(0.168 * mean) - 1);
  }

  bool increase() const { return tally_.increase(); }

  struct Found {
    Divisor divisor;
    int64_t bytes;
    int64_t digits;
  };

  // The best of 2^b or of 3 * 2^b, the smallest if several are, provided that it takes fewer than `limit` bytes.
  Found best(bool ternary, int64_t limit) {
    Found found{{0, ternary}, limit, 0};
    const auto look = [&](Divisor divisor) {
      const int64_t bytes = tally_.bytes(divisor);
      const bool better = bytes < found.bytes || (bytes == found.bytes && bytes < limit && divisor.shift < found.divisor.shift);
      if (better) found = {divisor, bytes, tally_.digits(divisor)};
    };
    for (int shift = 0; shift <= Coding::max_shift; ++shift) {
      if (tally_.knows({shift, ternary})) look({shift, ternary});
    }
    const GolombTally first = tally_;
    for (int shift = 0; shift <= Coding::max_shift; ++shift) {
      const Divisor divisor{shift, ternary};
      if (first.knows(divisor) || at_least(divisor) > static_cast<double>(found.bytes)) continue;
      if (!tally_.knows(divisor)) take(shift, shift);
      look(divisor);
    }
    return found;
  }

 private:
  static int shift_of(double power) {
    int shift = 0;
    while (shift < Coding::max_shift && static_cast<double>(int64_t{1} << shift) < power) ++shift;
    return shift;
  }

  // No more bytes than the divisor takes: of each gap less than a divisor is in its remainder, all else in its quotient.
  double at_least(Divisor divisor) const {
    const double value = static_cast<double>(divisor.value());
    const double bits = count_ * (divisor.shift + 1 + divisor.ternary) + std::max(0.0, (sum_ - count_ * (value - 1)) / value);
    return bits / 8 * (1 - 1e-9);
  }

  void take(int power_shift, int ternary_shift) {
    tally_ = golomb_tally(positions_, nnz_, numel_, zeros_, power_shift, ternary_shift);
  }

  const int64_t* positions_;
  int64_t nnz_, numel_;
  bool zeros_;
  double count_, sum_;  // of the gaps
  GolombTally tally_;
};

// ----- encoders -----

void write_bitmap(Mask mask, uint8_t* packed, int64_t size) {
  for (; size > 0; size -= 8, packed += 8) {
    uint64_t word;
    mask.read(&word, 1);
    std::memcpy(packed, &word, std::min<int64_t>(size, 8));
  }
}

void write_huffman(Mask mask, int64_t numel, uint8_t* packed, int64_t size) {
  HuffmanWriter writer(packed, size, numel);
  each_words(mask, numel, [&](const uint64_t* words, int64_t count) { writer.add(words, count); });
  writer.finish();
}

// ----- what the decoder reads: coded positions as words -----

class BitmapReader : public WordReader {
 public:
  BitmapReader(const uint8_t* packed, int64_t size, int64_t numel) : at_(packed), end_(packed + size) {
    if (size != bytes_of(numel)) {
      refuse_bits(std::to_string(size) + " bytes are encoded, not the " + std::to_string(bytes_of(numel)) + " of " +
                  std::to_string(numel) + " bits");
    }
  }

  void read(uint64_t* words, int64_t count) override {
    for (; count > 0; --count) {
      *words++ = load_word(at_, end_);
      at_ = end_ - at_ < 8 ? end_ : at_ + 8;
    }
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

class GolombWords : public WordReader {
 public:
  explicit GolombWords(GolombReader reader) : reader_(std::move(reader)) { refill(); }

  void read(uint64_t* words, int64_t count) override {
    for (; count > 0; --count, first_ += 64) {
      uint64_t word = 0;
      while (at_ < end_ && positions_[at_] - first_ < 64) {
        word |= uint64_t{1} << (positions_[at_] - first_);
        if (++at_ == end_) refill();
      }
      *words++ = word;
    }
  }

 private:
  void refill() {
    at_ = 0;
    end_ = reader_.read(positions_, gaps_at_once);
  }

  GolombReader reader_;
  int64_t first_ = 0;
  int64_t at_ = 0, end_ = 0;
  int64_t positions_[gaps_at_once];
};

}  // namespace

class PositionDecoder::Source {
 public:
  virtual ~Source() = default;
  virtual int64_t read(int64_t* positions, int64_t capacity) = 0;
  virtual void finish() {}
};

namespace {

class GolombSource : public PositionDecoder::Source {
 public:
  explicit GolombSource(GolombReader reader) : reader_(std::move(reader)) {}
  int64_t read(int64_t* positions, int64_t capacity) override { return reader_.read(positions, capacity); }

 private:
  GolombReader reader_;
};

class WordSource : public PositionDecoder::Source {
 public:
  WordSource(std::unique_ptr<WordReader> reader, int64_t nnz, int64_t numel, bool zeros)
      : reader_(std::move(reader)), nnz_(nnz), numel_(numel), zeros_(zeros), words_left_(words_of(numel)) {}

  int64_t read(int64_t* positions, int64_t capacity) override {
    int64_t count = 0;
    for (;;) {
      const int64_t first = first_ - 64;
      uint64_t word = word_;
      if (capacity - count >= 64) {
        for (; word; word &= word - 1) positions[count++] = first + lowest_bit(word);
      } else {
        for (; word && count < capacity; word &= word - 1) positions[count++] = first + lowest_bit(word);
      }
      word_ = word;
      if (count == capacity) break;
      if (!next_word()) break;
    }
    done_ += count;
    return count;
  }

  void finish() override {
    while (!word_ && next_word()) {
    }
    if (word_ || done_ != nnz_) {
      refuse_bits((word_ ? "more than " + std::to_string(done_) : std::to_string(done_)) + " positions are encoded, not " +
                  std::to_string(nnz_));
    }
    reader_->finish();
  }

 private:
  bool next_word() {
    if (at_ == end_) {
      if (!words_left_) return false;
      end_ = std::min(words_left_, words_at_once);
      reader_->read(words_, end_);
      words_left_ -= end_;
      at_ = 0;
      if (!words_left_ && words_[end_ - 1] & ~low_bits(numel_ - 64 * (words_of(numel_) - 1))) {
        refuse_bits("there are bits beyond the end");
      }
    }
    word_ = words_[at_++];
    if (zeros_) word_ = ~word_ & low_bits(numel_ - first_);
    first_ += 64;
    return true;
  }

  std::unique_ptr<WordReader> reader_;
  int64_t nnz_, numel_;
  bool zeros_;
  int64_t words_left_;
  int64_t done_ = 0;
  int64_t first_ = 0;  // after the current word
  uint64_t word_ = 0;  // what is left of it
  int64_t at_ = 0, end_ = 0;
  uint64_t words_[words_at_once];
};

std::unique_ptr<PositionDecoder::Source> source_of(const uint8_t* packed, int64_t size, int64_t nnz, int64_t numel,
                                                   const Coding& coding) {
  check_counts(nnz, numel);
  const int64_t count = coding.zeros ? numel - nnz : nnz;
  std::unique_ptr<WordReader> words;
  if (coding.kind == Coding::golomb) {
    GolombReader reader(packed, size, count, numel, coding.divisor);
    if (!coding.zeros) return std::make_unique<GolombSource>(std::move(reader));
    words = std::make_unique<GolombWords>(std::move(reader));
  } else if (coding.kind == Coding::huffman) {
    words = std::make_unique<HuffmanReader>(packed, size, numel);
  } else {
    words = std::make_unique<BitmapReader>(packed, size, numel);
  }
  return std::make_unique<WordSource>(std::move(words), nnz, numel, coding.zeros);
}

}  // namespace

PositionEncoder::PositionEncoder(const int64_t* positions, int64_t nnz, int64_t numel)
    : positions_(positions), nnz_(nnz), numel_(numel), size_(bytes_of(numel)) {
  check_counts(nnz, numel);
  const bool zeros = nnz > numel - nnz;
  const int64_t coded = zeros ? numel - nnz : nnz;
  if (zeros) check_positions(positions, nnz, numel);
  GolombSearch search(positions, nnz, numel, zeros);
  if (!search.increase() || (nnz && positions[nnz - 1] >= numel)) refuse_positions(numel);
  const auto consider = [&](const Coding& coding, int64_t size, int64_t digits) {
    if (size >= size_) return;
    coding_ = coding;
    size_ = size;
    digits_ = digits;
  };
  for (const bool ternary : {false, true}) {
    const auto found = search.best(ternary, size_);
    consider({Coding::golomb, zeros, found.divisor.value()}, found.bytes, found.digits);
  }
  if (huffman_at_least(coded, numel) < size_) {
    consider({Coding::huffman, zeros, 0}, huffman_size(positions, nnz, numel, zeros), 0);
  }
  // The bitmap without its end. Other divisors take two bits a position, no less than the bitmap.
  if (zeros) consider({Coding::golomb, false, 1}, golomb_restart_bytes(nnz) + bytes_of(positions[nnz - 1] + 1), 0);
}

PositionEncoder::PositionEncoder(const int64_t* positions, int64_t nnz, int64_t numel, const Coding& coding)
    : positions_(positions), nnz_(nnz), numel_(numel), coding_(coding) {
  check_counts(nnz, numel);
  check_positions(positions, nnz, numel);
  if (coding.kind == Coding::bitmap) {
    size_ = bytes_of(numel);
  } else if (coding.kind == Coding::huffman) {
    size_ = huffman_size(positions, nnz, numel, coding.zeros);
  } else {
    const Divisor divisor = divisor_of(coding.divisor);
    const GolombTally tally = golomb_tally(positions, nnz, numel, coding.zeros, divisor.shift, divisor.shift);
    size_ = tally.bytes(divisor);
    digits_ = tally.digits(divisor);
  }
}

void PositionEncoder::write(uint8_t* packed, int64_t size) const {
  if (size != size_) refuse_size();
  const Mask mask(positions_, nnz_, numel_, coding_.zeros);
  if (coding_.kind == Coding::bitmap) {
    write_bitmap(mask, packed, size);
  } else if (coding_.kind == Coding::huffman) {
    write_huffman(mask, numel_, packed, size);
  } else {
    GolombWriter writer(packed, size, coding_.zeros ? numel_ - nnz_ : nnz_, digits_, divisor_of(coding_.divisor));
    each_gaps(positions_, nnz_, numel_, coding_.zeros, [&](const uint64_t* gaps, int64_t count) { writer.add(gaps, count); });
    writer.finish();
  }
}

PositionDecoder::PositionDecoder(const uint8_t* packed, int64_t size, int64_t nnz, int64_t numel, const Coding& coding)
    : source_(source_of(packed, size, nnz, numel, coding)), left_(nnz) {}

PositionDecoder::~PositionDecoder() = default;

int64_t PositionDecoder::read(int64_t* positions, int64_t capacity) {
  const int64_t count = source_->read(positions, std::min(capacity, left_));
  left_ -= count;
  if (!ended_ && (left_ == 0 || count < std::min(capacity, left_ + count))) {
    source_->finish();
    ended_ = true;
  }
  return count;
}

}  // namespace mpl_sparse
