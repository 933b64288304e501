#include "codec/huffman.h"

namespace mpl_sparse {
namespace {

constexpr int shortest = 4, longest = 9;
constexpr int symbols_in_group = 64, words_in_group = 6;
constexpr int counts[longest + 1] = {0, 0, 0, 0, 1, 10, 31, 15, 5, 2};  // codes of each length

// The least code of 6, 7 and 8 bits that is the beginning of a longer one; and the first code of each length, with its rank.
constexpr unsigned longer_6 = 55, longer_7 = 125, longer_8 = 255;
constexpr unsigned first_6 = 24, first_7 = 110, first_8 = 250, rank_8 = 57, first_9 = 510, rank_9 = 62;

struct Code {
  uint16_t bits;
  uint8_t length;
};

struct Tables {
  uint8_t symbols[64];    // by rank: sorted by their number of ones, then by value
  Code codes[64];         // by symbol
  uint8_t of_seven[128];  // by a code's first seven bits, if these are enough: the symbol
  // By symbol: in fields of 12 bits, whether its code has more than 4, 5, 6, 7, 8 bits.
  uint64_t longer[64];
};

constexpr int ones(int symbol) { return symbol ? (symbol & 1) + ones(symbol >> 1) : 0; }

constexpr Tables make_tables() {
  Tables tables{};
  int rank = 0;
  for (int count = 0; count <= 6; ++count) {
    for (int symbol = 0; symbol < 64; ++symbol) {
      if (ones(symbol) == count) tables.symbols[rank++] = static_cast<uint8_t>(symbol);
    }
  }
  unsigned code = 0;
  rank = 0;
  for (int length = shortest; length <= longest; ++length, code <<= 1) {
    for (int k = 0; k < counts[length]; ++k, ++code, ++rank) {
      const int symbol = tables.symbols[rank];
      tables.codes[symbol] = {static_cast<uint16_t>(code), static_cast<uint8_t>(length)};
      for (int more = shortest; more < length; ++more) tables.longer[symbol] |= uint64_t{1} << 12 * (more - shortest);
      for (unsigned seven = 0; length <= 7 && seven < 128; ++seven) {
        if (seven >> (7 - length) == code) tables.of_seven[seven] = static_cast<uint8_t>(symbol);
      }
    }
  }
  return tables;
}

constexpr Tables tables = make_tables();

static_assert(tables.codes[0].bits == 0 && tables.codes[63].bits == first_9 + 1, "");
static_assert(first_6 + counts[6] == longer_6 && first_7 + counts[7] == longer_7 && first_8 + counts[8] == longer_8, "");
static_assert(rank_9 + counts[9] == 64 && longer_6 << 1 == first_7 && longer_7 << 1 == first_8 && longer_8 << 1 == first_9, "");

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

// Sixteen bits, each moved to the lowest bit of its own four; and back.
uint64_t spread(uint64_t bits) {
  bits = (bits | bits << 24) & 0x000000ff000000ff;
  bits = (bits | bits << 12) & 0x000f000f000f000f;
  bits = (bits | bits << 6) & 0x0303030303030303;
  return (bits | bits << 3) & 0x1111111111111111;
}

uint64_t gathered(uint64_t bits) {
  bits &= 0x1111111111111111;
  bits = (bits | bits >> 3) & 0x0303030303030303;
  bits = (bits | bits >> 6) & 0x000f000f000f000f;
  bits = (bits | bits >> 12) & 0x000000ff000000ff;
  return (bits | bits >> 24) & 0xffff;
}

// Eight symbols in 48 bits.
uint64_t packed_symbols(const uint8_t* symbols) {
  uint64_t bits = load_word(symbols);
  bits = (bits & 0x003f003f003f003f) | (bits & 0x3f003f003f003f00) >> 2;
  bits = (bits & 0x00000fff00000fff) | (bits & 0x0fff00000fff0000) >> 4;
  return (bits & 0xffffff) | bits >> 32 << 24;
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
    uint64_t bits[longest - shortest] = {}, nibbles[4] = {};
    int used[longest - shortest] = {};
    const auto visit = [&](int place, uint64_t symbol) {
      const Code code = tables.codes[symbol];
      const uint64_t left = code.bits << (longest - code.length);  // its nine bits, the first highest
      const int has_5 = code.length > 4, has_6 = code.length > 5;
      nibbles[place >> 4] |= (left >> 5) << 4 * (place & 15);
      bits[0] |= (left >> 4 & has_5) << (used[0] & 63);
      bits[1] |= (left >> 3 & has_6) << (used[1] & 63);
      used[0] += has_5;
      used[1] += has_6;
      for (int level = 6; level < code.length; ++level) {
        bits[level - shortest] |= (left >> (longest - 1 - level) & 1) << used[level - shortest];
        ++used[level - shortest];
      }
    };
    each_symbol(words, visit);
    each_symbol(words + 3, [&](int place, uint64_t symbol) { visit(place + 32, symbol); });
    const int symbols = static_cast<int>(symbols_ - done_ < symbols_in_group ? symbols_ - done_ : symbols_in_group);
    for (int level = 0; level < shortest; ++level) {
      uint64_t plane = 0;
      for (int k = 0; k < 4; ++k) plane |= gathered(nibbles[k] >> (shortest - 1 - level)) << 16 * k;
      append(level * symbols_ + done_, plane, symbols);
    }
    for (int k = 0; k < longest - shortest; ++k) {
      const int shift = ends_[k] & 63;
      if (shift == 0) levels_[k].push_back(0);
      levels_[k].back() |= bits[k] << shift;
      if (shift + used[k] > 64) levels_[k].push_back(bits[k] >> (64 - shift));
      ends_[k] += used[k];
      if (used[k] == 0 && shift == 0) levels_[k].pop_back();
    }
    done_ += symbols;
  }
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
    : packed_(packed), end_(packed + size), symbols_(symbols_of(numel)), left_(symbols_) {
  if (symbols_ > size * 8 / shortest || bytes_of(longest * symbols_) < size) {
    refuse_bits(std::to_string(size) + " bytes cannot be " + std::to_string(symbols_) + " symbols");
  }
  find_levels();
}

// One look at the first four levels tells how many codes have a fifth and a sixth bit; those of more than six bits, which are
// few, tell the rest.
void HuffmanReader::find_levels() {
  int64_t longer[5] = {0, 0, 0, 0, 0};
  const int64_t size = (end_ - packed_) * int64_t{8};
  const auto group = [&](int64_t first, uint64_t planes[4]) {
    for (int k = 0; k < 4; ++k) planes[k] = bits(k * symbols_ + first) & low_bits(symbols_ - first);
  };
  const auto check = [&](int64_t end) {
    if (end > size) refuse_bits("the codes end early");
  };
  uint64_t p[4];
  for (int64_t first = 0; first < symbols_; first += symbols_in_group) {
    group(first, p);
    longer[0] += count_ones(p[0] | p[1] | p[2] | p[3]);
    longer[1] += count_ones(p[0] | (p[1] & p[2]));
  }
  for (int k = 0; k < shortest; ++k) at_[k] = k * symbols_;
  at_[4] = shortest * symbols_;
  at_[5] = at_[4] + longer[0];
  at_[6] = at_[5] + longer[1];
  check(at_[6]);
  int64_t fifth = at_[4], sixth = at_[5], seventh = at_[6];
  for (int64_t first = 0; first < symbols_; first += symbols_in_group) {
    group(first, p);
    const uint64_t five = p[0] | p[1] | p[2] | p[3], six = p[0] | (p[1] & p[2]);
    const uint64_t fifths = bits(fifth), sixths = bits(sixth);
    uint64_t sevenths = bits(seventh);
    int more = 0;
    for (uint64_t perhaps = p[0] & p[1] & (p[2] | p[3]); perhaps; perhaps &= perhaps - 1) {
      const int place = lowest_bit(perhaps);
      const uint64_t before = low_bits(place);
      const unsigned code = 32 | 16 | (p[2] >> place & 1) << 3 | (p[3] >> place & 1) << 2 |
                            (fifths >> count_ones(five & before) & 1) << 1 | (sixths >> count_ones(six & before) & 1);
      const int has_7 = code >= longer_6;
      longer[3] += (code << 1 | (sevenths & 1)) >= longer_7;
      sevenths >>= has_7;
      more += has_7;
    }
    longer[2] += more;
    seventh += more;
    fifth += count_ones(five);
    sixth += count_ones(six);
  }
  at_[7] = at_[6] + longer[2];
  at_[8] = at_[7] + longer[3];
  check(at_[8]);
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
  const uint64_t within = low_bits(left_);  // past the end come symbols 0, which take no bits of the longer levels
  uint64_t planes[4];
  for (int k = 0; k < 4; ++k) {
    planes[k] = bits(at_[k]) & within;
    at_[k] += symbols_in_group;
  }
  uint64_t fifths = bits(at_[4]), sixths = bits(at_[5]), sevenths = bits(at_[6]);
  const uint64_t five = planes[0] | planes[1] | planes[2] | planes[3], six = planes[0] | (planes[1] & planes[2]);
  int used_7 = 0;
  uint8_t symbols[symbols_in_group];
  for (int quarter = 0; quarter < 4; ++quarter) {
    uint64_t nibbles = 0;
    for (int k = 0; k < 4; ++k) nibbles |= spread(planes[k] >> 16 * quarter & 0xffff) << (3 - k);
    for (int k = 0; k < 16; ++k, nibbles >>= 4) {
      const unsigned four = nibbles & 15;
      const unsigned six = four << 2 | (fifths & 1) << 1 | (sixths & 1);
      const int has_5 = four > 0, has_6 = four >= first_6 >> 2, has_7 = six >= longer_6;
      const unsigned seven = six << 1 | (sevenths & 1);
      fifths >>= has_5;
      sixths >>= has_6;
      sevenths >>= has_7;
      used_7 += has_7;
      uint8_t symbol = tables.of_seven[seven];
      if (seven >= longer_7) symbol = longest_symbol(seven);
      symbols[16 * quarter + k] = symbol;
    }
  }
  for (int half = 0; half < 2; ++half) {
    uint64_t eights[4];
    for (int k = 0; k < 4; ++k) eights[k] = packed_symbols(symbols + 32 * half + 8 * k);
    group_[3 * half] = eights[0] | eights[1] << 48;
    group_[3 * half + 1] = eights[1] >> 16 | eights[2] << 32;
    group_[3 * half + 2] = eights[2] >> 32 | eights[3] << 16;
  }
  at_[4] += count_ones(five);
  at_[5] += count_ones(six);
  at_[6] += used_7;
  left_ = left_ > symbols_in_group ? left_ - symbols_in_group : 0;
}

// One symbol in fifty has a code of more than seven bits.
uint8_t HuffmanReader::longest_symbol(unsigned seven) {
  const unsigned eight = seven << 1 | (bits(at_[7]++) & 1);
  return tables.symbols[eight < longer_8 ? eight - first_8 + rank_8 : (bits(at_[8]++) & 1) + rank_9];
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
