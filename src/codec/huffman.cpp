#include "codec/huffman.h"

namespace mpl_sparse {
namespace {

constexpr int shortest = 4, longest = 9;
constexpr int symbols_in_group = 64, words_in_group = 6;
constexpr int counts[longest + 1] = {0, 0, 0, 0, 1, 10, 31, 15, 5, 2};  // codes of each length

struct Tables {
  uint8_t codes[64];     // by symbol: its code's first eight bits, the first lowest
  uint8_t symbols[256];  // by these eight bits. Two codes are longer, 255 and a last bit: of the symbols 62 and 63, here 62
  uint64_t longer[64];   // by symbol: in fields of 12 bits, whether its code has more than 4, 5, 6, 7, 8 bits
};

constexpr int ones(int symbol) { return symbol ? (symbol & 1) + ones(symbol >> 1) : 0; }

constexpr uint8_t reversed(unsigned byte) {
  unsigned bits = 0;
  for (int k = 0; k < 8; ++k) bits |= (byte >> k & 1) << (7 - k);
  return static_cast<uint8_t>(bits);
}

constexpr Tables make_tables() {
  Tables tables{};
  int sorted[64] = {}, rank = 0;  // by the number of ones, then by value
  for (int count = 0; count <= 6; ++count) {
    for (int symbol = 0; symbol < 64; ++symbol) {
      if (ones(symbol) == count) sorted[rank++] = symbol;
    }
  }
  unsigned code = 0;
  rank = 0;
  for (int length = shortest; length <= longest; ++length, code <<= 1) {
    for (int k = 0; k < counts[length]; ++k, ++code, ++rank) {
      const int symbol = sorted[rank];
      for (int more = shortest; more < length; ++more) tables.longer[symbol] |= uint64_t{1} << 12 * (more - shortest);
      const unsigned first = length <= 8 ? code << (8 - length) : code >> (length - 8);
      tables.codes[symbol] = reversed(first);
      for (unsigned eight = first; length <= 8 && eight >> (8 - length) == code; ++eight) {
        tables.symbols[reversed(eight)] = static_cast<uint8_t>(symbol);
      }
    }
  }
  tables.symbols[255] = 62;
  return tables;
}

constexpr Tables tables = make_tables();

static_assert(tables.codes[0] == 0 && tables.codes[62] == 255 && tables.codes[63] == 255, "");

int64_t symbols_of(int64_t numel) { return numel / 6 + (numel % 6 != 0); }

// Calls visit(place, symbol) for the 32 symbols of three words.
template <class Visit>
void each_symbol(const uint64_t* words, Visit visit) {
  for (int k = 0; k < 10; ++k) visit(k, words[0] >> 6 * k & 63);
  visit(10, words[0] >> 60 | (words[1] & 3) << 4);
  for (int k = 0; k < 10; ++k) visit(11 + k, words[1] >> (2 + 6 * k) & 63);
  visit(21, words[1] >> 62 | (words[2] & 15) << 2);
  for (int k = 0; k < 10; ++k) visit(22 + k, words[2] >> (4 + 6 * k) & 63);
}

// Byte n of word j and byte j of word n change places.
void transpose_bytes(uint64_t words[8]) {
  constexpr uint64_t low[3] = {0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff};
  for (int step = 2; step >= 0; --step) {
    const int apart = 1 << step, shift = 8 << step;
    for (int k = 0; k < 8; ++k) {
      if (k & apart) continue;
      const uint64_t other = (words[k] >> shift ^ words[k + apart]) & low[step];
      words[k] ^= other << shift;
      words[k + apart] ^= other;
    }
  }
}

// Bit i of byte n and bit n of byte i change places.
uint64_t transposed_bits(uint64_t word) {
  constexpr uint64_t above[3] = {0x00aa00aa00aa00aa, 0x0000cccc0000cccc, 0x00000000f0f0f0f0};
  for (int step = 0; step < 3; ++step) {
    const int shift = 7 << step;
    const uint64_t other = (word ^ word >> shift) & above[step];
    word ^= other ^ other << shift;
  }
  return word;
}

// Moves the bits at the ones of a mask to the lowest places, in six steps (Warren, Hacker's Delight, 7-4).
uint64_t gathered(uint64_t bits, uint64_t mask) {
  bits &= mask;
  uint64_t below = ~mask << 1;
  for (int step = 0; step < 6; ++step) {
    uint64_t odd = below;  // whether an odd number of zeros is still to be closed below
    for (int shift = 1; shift < 64; shift *= 2) odd ^= odd << shift;
    const uint64_t moves = odd & mask, moved = bits & moves;
    mask = (mask ^ moves) | moves >> (1 << step);
    bits = (bits ^ moved) | moved >> (1 << step);
    below &= ~odd;
  }
  return bits;
}

// The lowest bits, moved to the ones of a mask: a step for each of its zeros, or for each of its ones.
uint64_t scattered_over_zeros(uint64_t bits, uint64_t mask) {
  for (uint64_t zeros = ~mask; zeros; zeros &= zeros - 1) bits += bits & (zeros | (~zeros + 1));
  return bits;
}

uint64_t scattered_over_ones(uint64_t bits, uint64_t mask) {
  uint64_t all = 0;
  for (; mask; mask &= mask - 1, bits >>= 1) all |= mask & (~mask + 1) & (~(bits & 1) + 1);
  return all;
}

}  // namespace

HuffmanTally::HuffmanTally(int64_t numel) : symbols_(symbols_of(numel)) {}

void HuffmanTally::add(const uint64_t* words, int64_t count) {
  static_assert(words_at_once * 64 / 6 < 4096, "the fields would run over");
  uint64_t longer = 0;
  for (int64_t k = 0; k < count; k += 3) {
    each_symbol(words + k, [&](int, uint64_t symbol) { longer += tables.longer[symbol]; });
  }
  for (int k = 0; k < 5; ++k) longer_[k] += longer >> 12 * k & 4095;
}

int64_t HuffmanTally::bytes() const {
  int64_t bits = shortest * symbols_;
  for (const int64_t longer : longer_) bits += longer;
  return bytes_of(bits);
}

HuffmanWriter::HuffmanWriter(uint8_t* packed, int64_t size, int64_t numel)
    : packed_(packed), size_(size), symbols_(symbols_of(numel)) {
  if (size < bytes_of(shortest * symbols_)) refuse_size();
  if (size) std::memset(packed, 0, size);
}

void HuffmanWriter::add(const uint64_t* words, int64_t count) {
  for (; count > 0; count -= words_in_group, words += words_in_group) {
    HuffmanLevels group;
    uint64_t codes[8] = {};
    each_symbol(words, [&](int k, uint64_t symbol) { codes[k / 8] |= uint64_t{tables.codes[symbol]} << k % 8 * 8; });
    each_symbol(words + 3, [&](int k, uint64_t symbol) { codes[k / 8 + 4] |= uint64_t{tables.codes[symbol]} << k % 8 * 8; });
    for (int k = 0; k < 8; ++k) group.level[k] = transposed_bits(codes[k]);
    transpose_bytes(group.level);
    group.find_4();
    group.find_5();
    group.find_6();
    group.find_7();
    group.find_8();
    const int symbols = static_cast<int>(symbols_ - done_ < symbols_in_group ? symbols_ - done_ : symbols_in_group);
    for (int k = 0; k < shortest; ++k) append(k * symbols_ + done_, group.level[k], symbols);
    for (int k = shortest; k < 8; ++k) keep(k, gathered(group.level[k], group.has[k]), count_ones(group.has[k]));
    for (uint64_t nine = group.has[8]; nine; nine &= nine - 1) {
      const int bit = 6 * lowest_bit(nine);
      keep(8, words[bit >> 6] >> (bit & 63) & 1, 1);
    }
    done_ += symbols;
  }
}

void HuffmanWriter::keep(int level, uint64_t bits, int count) {
  if (!count) return;
  std::vector<uint64_t>& words = levels_[level - shortest];
  int64_t& end = ends_[level - shortest];
  const int shift = end & 63;
  if (shift == 0) words.push_back(0);
  words.back() |= bits << shift;
  if (shift + count > 64) words.push_back(bits >> (64 - shift));
  end += count;
}

void HuffmanWriter::finish() {
  int64_t bit = shortest * symbols_;
  for (int k = 0; k < longest - shortest; ++k) {
    int64_t left = ends_[k];
    for (const uint64_t word : levels_[k]) {
      append(bit, word, static_cast<int>(left < 64 ? left : 64));
      bit += left < 64 ? left : 64;
      left -= 64;
    }
  }
  if (bytes_of(bit) != size_) refuse_size();
}

void HuffmanWriter::append(int64_t bit, uint64_t bits, int count) {
  if (bytes_of(bit + count) > size_) refuse_size();
  uint8_t* at = packed_ + (bit >> 3);
  const int shift = bit & 7;
  const int64_t within = packed_ + size_ - at;
  if (within > 8) {
    const uint64_t word = load_word(at) | bits << shift;
    std::memcpy(at, &word, 8);
    if (shift) at[8] |= static_cast<uint8_t>(bits >> (64 - shift));
    return;
  }
  const uint64_t word = load_word(at, at + within) | bits << shift;
  if (within > 0) std::memcpy(at, &word, within);
}

HuffmanReader::HuffmanReader(const uint8_t* packed, int64_t size, int64_t numel)
    : packed_(packed), end_(packed + size), symbols_(symbols_of(numel)) {
  if (symbols_ > size * 8 / shortest || bytes_of(longest * symbols_) < size) {
    refuse_bits(std::to_string(size) + " bytes cannot be " + std::to_string(symbols_) + " symbols");
  }
  find_levels();
}

// The first four levels tell how many codes have a fifth and a sixth bit; these levels, how many have more.
void HuffmanReader::find_levels() {
  int64_t longer[longest] = {};
  const auto check = [&](int64_t end) {
    if (end > (end_ - packed_) * int64_t{8}) refuse_bits("the codes end early");
  };
  HuffmanLevels group;
  for (int64_t first = 0; first < symbols_; first += symbols_in_group) {
    read_first(group, first);
    for (int k = 4; k < 6; ++k) longer[k] += count_ones(group.has[k]);
  }
  at_[4] = shortest * symbols_;
  for (int k = 4; k < 6; ++k) at_[k + 1] = at_[k] + longer[k];
  check(at_[6]);
  const int64_t fifth = at_[4], sixth = at_[5], seventh = at_[6];
  for (int64_t first = 0; first < symbols_; first += symbols_in_group) {
    read_first(group, first);
    read_next(group);
    longer[7] += count_ones(group.has[7]);
  }
  at_[7] = at_[6];
  at_[8] = at_[7] + longer[7];
  check(at_[8]);
  at_[4] = fifth;
  at_[5] = sixth;
  at_[6] = seventh;
}

// Levels 0 to 3. Past the end come symbols 0, whose codes have no other bits.
void HuffmanReader::read_first(HuffmanLevels& group, int64_t first) const {
  for (int k = 0; k < shortest; ++k) group.level[k] = bits(k * symbols_ + first) & low_bits(symbols_ - first);
  group.find_4();
  group.find_5();
}

// Levels 4 to 6.
void HuffmanReader::read_next(HuffmanLevels& group) {
  read_level(group, 4);
  read_level(group, 5);
  group.find_6();
  read_level(group, 6);
  group.find_7();
}

void HuffmanReader::read_level(HuffmanLevels& group, int k) {
  const auto scattered = k < 6 ? scattered_over_zeros : scattered_over_ones;  // many codes have bits 4 and 5, few have more
  group.level[k] = scattered(bits(at_[k]), group.has[k]);
  at_[k] += count_ones(group.has[k]);
}

void HuffmanReader::read(uint64_t* words, int64_t count) {
  for (; count > 0; --count) {
    if (used_ == words_in_group) {
      read_group();
      used_ = 0;
    }
    *words++ = group_[used_++];
  }
}

void HuffmanReader::read_group() {
  HuffmanLevels group;
  read_first(group, done_);
  read_next(group);
  read_level(group, 7);
  group.find_8();
  transpose_bytes(group.level);
  uint64_t eights[8];
  for (int k = 0; k < 8; ++k) {
    const uint64_t codes = transposed_bits(group.level[k]);
    eights[k] = 0;
    for (int i = 0; i < 8; ++i) eights[k] |= uint64_t{tables.symbols[codes >> 8 * i & 255]} << 6 * i;
  }
  for (int half = 0; half < 2; ++half) {
    const uint64_t* four = eights + 4 * half;
    group_[3 * half] = four[0] | four[1] << 48;
    group_[3 * half + 1] = four[1] >> 16 | four[2] << 32;
    group_[3 * half + 2] = four[2] >> 32 | four[3] << 16;
  }
  for (uint64_t nine = group.has[8]; nine; nine &= nine - 1) {
    const int bit = 6 * lowest_bit(nine);
    group_[bit >> 6] |= (bits(at_[8]++) & 1) << (bit & 63);
  }
  done_ += symbols_in_group;
}

void HuffmanReader::finish() {
  const int64_t end = at_[8];
  if (bytes_of(end) != end_ - packed_) {
    refuse_bits("there are " + std::to_string(end_ - packed_) + " bytes of codes, of which " + std::to_string(bytes_of(end)) +
                " are needed");
  }
  if (end % 8 && end_[-1] >> end % 8) refuse_bits("there are bits beyond the end");
}

}  // namespace mpl_sparse
