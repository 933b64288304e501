#include "codec/golomb.h"

#include "mpl_sparse/codec.h"

namespace mpl_sparse {
namespace {

constexpr uint64_t largest_sum = uint64_t{1} << 32;

// Cuts `bits` bits off the front of [packed, end); those of the last byte that are too many must be 0.
const uint8_t* cut(const uint8_t*& packed, const uint8_t* end, int64_t bits) {
  const int64_t bytes = bytes_of(bits);
  if (bytes > end - packed) {
    refuse_bits(std::to_string(end - packed) + " bytes are left of those encoded, " + std::to_string(bytes) + " are needed");
  }
  const uint8_t* part = packed;
  packed += bytes;
  if (bits % 8 && part[bytes - 1] >> bits % 8) refuse_bits("there are bits beyond the end");
  return part;
}

int64_t ones_among(const uint8_t* bits, int64_t count) {
  const uint8_t* end = bits + bytes_of(count);
  int64_t ones = 0;
  for (; end - bits >= 8; bits += 8) ones += count_ones(load_word(bits));
  return ones + count_ones(load_word(bits, end));
}

}  // namespace

Divisor divisor_of(int64_t value) {
  const bool ternary = value > 0 && value % 3 == 0;
  const uint64_t power = ternary ? value / 3 : value;
  if (value <= 0 || (power & (power - 1)) || lowest_bit(power) > Coding::max_shift) {
    refuse_bits("divisor must be 2^b or 3 * 2^b with b at most " + std::to_string(Coding::max_shift) + ", got " +
                std::to_string(value));
  }
  return {lowest_bit(power), ternary};
}

void GolombTally::add(const uint64_t* gaps, int64_t count) {
  count_ += count;
  uint64_t all = 0;
  for (int64_t k = 0; k < count; ++k) all |= gaps[k];
  all_ |= all;
  const bool fits = count <= gaps_at_once && all < largest_sum / gaps_at_once && shifts_[0] < 30 && shifts_[1] < 30;
  if (!fits) return tally(gaps, count);
  uint32_t narrow[gaps_at_once];  // and so are their sums: twice as many at once
  for (int64_t k = 0; k < count; ++k) narrow[k] = static_cast<uint32_t>(gaps[k]);
  tally(narrow, count);
}

template <class Gap>
void GolombTally::tally(const Gap* gaps, int64_t count) {
  Gap p0 = 0, p1 = 0, p2 = 0, q0 = 0, q1 = 0, q2 = 0, d0 = 0, d1 = 0, d2 = 0;
  for (int64_t k = 0; k < count; ++k) {
    const Gap quotient = gaps[k] >> shifts_[0];
    p0 += quotient;
    p1 += quotient >> 1;
    p2 += quotient >> 2;
  }
  for (int64_t k = 0; k < count; ++k) {
    const Gap high = gaps[k] >> shifts_[1], quotient = high / 3;
    q0 += quotient;
    q1 += quotient >> 1;
    q2 += quotient >> 2;
    d0 += high != quotient * 3;
    d1 += high >> 1 != (quotient >> 1) * 3;
    d2 += high >> 2 != (quotient >> 2) * 3;
  }
  const Gap quotients[2][3] = {{p0, p1, p2}, {q0, q1, q2}}, digits[3] = {d0, d1, d2};
  for (int k = 0; k < 3; ++k) {
    for (int kind = 0; kind < 2; ++kind) quotients_[kind][k] += quotients[kind][k];
    digits_[k] += digits[k];
  }
}

int64_t GolombTally::bytes(Divisor divisor) const {
  const int which = divisor.shift - shifts_[divisor.ternary];
  const int64_t restarts = count_ ? (count_ - 1) / gaps_between_restarts : 0;
  const int64_t bytes = 16 * restarts + bytes_of(count_ * divisor.shift) + bytes_of(count_ + quotients_[divisor.ternary][which]);
  return divisor.ternary ? bytes + bytes_of(count_) + bytes_of(digits_[which]) : bytes;
}

GolombWriter::GolombWriter(uint8_t* packed, int64_t size, int64_t count, int64_t digits, Divisor divisor) : divisor_(divisor) {
  const uint8_t* end = packed + size;
  const auto part = [&](int64_t bytes) {
    if (bytes > end - packed) refuse_size();
    uint8_t* at = packed;
    packed += bytes;
    return BitWriter(at, bytes);
  };
  restarts_ = part(golomb_restart_bytes(count));
  remainders_ = part(bytes_of(count * divisor.shift));
  if (divisor.ternary) {
    digits_ = part(bytes_of(count));
    twos_ = part(bytes_of(digits));
  }
  quotients_ = part(end - packed);
}

void GolombWriter::add(const uint64_t* gaps, int64_t count) {
  while (count > 0) {
    if (done_ && done_ % gaps_between_restarts == 0) {
      for (const int64_t number : {next_, quotient_bits_}) {
        restarts_.put(number & 0xffffffff, 32);
        restarts_.put(static_cast<uint64_t>(number) >> 32, 32);
      }
    }
    const int64_t to_restart = gaps_between_restarts - done_ % gaps_between_restarts;
    const int64_t some = count < to_restart ? count : to_restart;
    divisor_.ternary ? write<true>(gaps, some) : write<false>(gaps, some);
    gaps += some;
    count -= some;
    done_ += some;
  }
}

template <bool ternary>
void GolombWriter::write(const uint64_t* gaps, int64_t count) {
  const int shift = divisor_.shift;
  const uint64_t mask = low_bits(shift);
  BitWriter remainders = remainders_, quotients = quotients_;  // copies stay in registers
  uint64_t sum_of_gaps = 0, sum_of_quotients = 0;
  for (int64_t first = 0; first < count; first += 64) {
    const int some = static_cast<int>(count - first < 64 ? count - first : 64);
    uint64_t digits = 0, twos = 0;
    int used = 0;
    for (int k = 0; k < some; ++k) {
      const uint64_t gap = gaps[first + k], high = gap >> shift;
      uint64_t quotient = high;
      if (ternary) {
        quotient = high / 3;
        const uint64_t digit = high - 3 * quotient, is_one_or_two = digit != 0;
        digits |= is_one_or_two << k;
        twos |= (digit >> 1) << (used & 63);
        used += static_cast<int>(is_one_or_two);
      }
      remainders.put(gap & mask, shift);
      quotients.unary(quotient);
      sum_of_gaps += gap;
      sum_of_quotients += quotient;
    }
    if (ternary) {
      digits_.put(digits, some);
      twos_.put(twos, used);
    }
  }
  remainders_ = remainders;
  quotients_ = quotients;
  next_ += sum_of_gaps + count;
  quotient_bits_ += sum_of_quotients + count;
}

void GolombWriter::finish() {
  restarts_.finish();
  remainders_.finish();
  digits_.finish();
  twos_.finish();
  quotients_.finish();
}

GolombReader::GolombReader(const uint8_t* packed, int64_t size, int64_t count, int64_t numel, int64_t divisor)
    : divisor_(divisor_of(divisor)), count_(count), numel_(numel) {
  // Each gap takes a bit or more. Checked first: the sums below cannot overflow then.
  if (count > size * 8) refuse_bits(std::to_string(size) + " bytes cannot be " + std::to_string(count) + " gaps");
  if (size < 4096) {
    padded_.assign(packed, packed + size);
    padded_.resize(size + 8);
    packed = padded_.data();
  }
  end_ = packed + size;
  restarts_ = cut(packed, end_, 8 * golomb_restart_bytes(count));
  remainders_ = cut(packed, end_, count * divisor_.shift);
  if (divisor_.ternary) {
    digits_ = cut(packed, end_, count);
    twos_ = cut(packed, end_, ones_among(digits_, count));
  }
  at_ = quotients_ = packed;
  // So there are eight bytes or more after the other parts, unless all of them are few and have been copied.
  if (count > int64_t{end_ - quotients_} * 8) {
    refuse_bits(std::to_string(end_ - quotients_) + " bytes cannot be " + std::to_string(count) + " quotients");
  }
  if (count == 0) finish();
}

int64_t GolombReader::read(int64_t* positions, int64_t capacity) {
  const int64_t all = capacity < count_ - done_ ? capacity : count_ - done_;
  for (int64_t left = all; left > 0;) {
    if (done_ && done_ % gaps_between_restarts == 0) check_restart();
    const int64_t block = divisor_.shift > 50 ? 8 : 64, to_next = block - done_ % block;
    const int64_t some = left < to_next ? left : to_next;
    divisor_.ternary ? run<true>(positions, some) : run<false>(positions, some);
    positions += some;
    left -= some;
  }
  if (all && done_ == count_) finish();
  return all;
}

// So few gaps that their sum fits in 64 bits whatever they are. Multiplications, where there could be shifts: on x86-64 all
// shifts by a variable take it from one register.
template <bool ternary>
void GolombReader::run(int64_t* positions, int64_t count) {
  const int shift = divisor_.shift;
  const uint64_t mask = low_bits(shift), power = uint64_t{1} << shift, divisor = divisor_.value();
  uint64_t digits = 0, twos = 0;
  if (ternary) {
    digits = load_bits(digits_, end_, done_) & low_bits(count);
    twos = load_bits(twos_, end_, two_);
    two_ += count_ones(digits);
  }
  const uint8_t* at = at_;
  const uint8_t* remainders = remainders_ + (done_ * shift >> 3);
  unsigned remainder_bit = done_ * shift & 7;
  uint64_t word = word_, word_bit = word_bit_, bit = quotient_bits_, next = next_;
  for (int64_t k = 0; k < count; ++k) {
    while (!word) {
      if (at >= end_) refuse_bits("the quotients end early");
      word_bit += 64;
      word = load_word(at, end_);
      at = end_ - at < 8 ? end_ : at + 8;
    }
    const uint64_t one = word_bit + lowest_bit(word), quotient = one - bit;
    word &= word - 1;
    bit = one + 1;
    uint64_t rest = load_word(remainders + (remainder_bit >> 3)) >> (remainder_bit & 7) & mask;
    remainder_bit += shift;
    if (ternary) {
      const uint64_t digit = digits & 1;
      rest += (digit + (twos & digit)) * power;
      digits >>= 1;
      twos = digit ? twos >> 1 : twos;
    }
    next += quotient * divisor + rest + 1;
    positions[k] = next - 1;
  }
  const uint64_t quotients = bit - quotient_bits_ - count;
  if (quotients > static_cast<uint64_t>(numel_) / divisor || next > static_cast<uint64_t>(numel_)) {
    refuse_bits("a position is not below the " + std::to_string(numel_) + " elements");
  }
  at_ = at;
  word_ = word;
  word_bit_ = word_bit;
  quotient_bits_ = bit;
  next_ = next;
  done_ += count;
}

void GolombReader::check_restart() const {
  const uint8_t* restart = restarts_ + 16 * (done_ / gaps_between_restarts - 1);
  const int64_t next = load_word(restart), bit = load_word(restart + 8);
  if (next != next_ || bit != quotient_bits_) {
    refuse_bits("the restart point before gap " + std::to_string(done_) + " is (" + std::to_string(next) + ", " +
                std::to_string(bit) + "), not (" + std::to_string(next_) + ", " + std::to_string(quotient_bits_) + ")");
  }
}

void GolombReader::finish() const {
  if (bytes_of(quotient_bits_) != end_ - quotients_) {
    refuse_bits("there are " + std::to_string(end_ - quotients_) + " bytes of quotients, of which " +
                std::to_string(bytes_of(quotient_bits_)) + " are needed");
  }
  if (word_) refuse_bits("there are bits beyond the end");
}

}  // namespace mpl_sparse
