// Rounding to a table of values (clauses RND-3, RND-4, RND-6, RND-12); the C++ of
// `reference/table.py`.
#pragma once
#include "common/element.h"

QS_BEGIN

/// One sign's view of a table, in which x counts as positive: values u_0 < … < u_k.
struct SignView {
  const int64_t* keys;           // magnitude bits of the values u > 0
  const int64_t* bits;           // of each value, in its true sign
  const int32_t* ulp_exponents;  // for each interval, g: both ends are multiples of 2^g
  const int64_t* starts;         // u_i/2^g modulo 2^64
  const int64_t* divisors;       // (u_{i+1} - u_i)/2^g, less than 2^62
  int32_t key_count, not_positive;
};

/// Where the values of a table are found by the leading bits of a magnitude (`table_index.py`), on
/// a CPU. Arrays of words of the source dtype, the positive sign's part first.
struct TableIndex {
  const void* first;  // for each bucket, how many steps lie before it
  /// After so many steps: the next step, magnitude bits that ascend; the bits of the value; for
  /// stochastic modes also, as floats of that width, where the interval starts, and its width to
  /// nearest: -1 outside of all intervals, NaN where floats do not suffice.
  const void* entries;
  int32_t shift, levels;
  int64_t low, high;  // buckets
};

/// Where the values of a table, of either sign, lie in each binade (`table_spacing.py`), on a CPU.
struct TableSpacing {
  /// Words of the source dtype; null in tables whose values are not the multiples of a power of two
  /// in each binade. For each one, from the exponent field `first` on: the power for magnitude
  /// bits, and 64 where even multiples are odd codes.
  const void* binades;
  /// Words, three times `period_words`; null in tables that are not alike in all binades. Steps
  /// within a binade; after so many of them the value, and for stochastic modes the next one, as
  /// what is added to the bits where the binade begins.
  const void* period;
  int32_t first, count;
  int64_t step;             // the least magnitude that does not become zero, in nearest_even
  int64_t least, greatest;  // magnitude bits of the values that are not zero
};

constexpr int period_words = 16;  // more than a binade has steps

/// A table as the kernels see it, in one source dtype, under one policy and rounding mode.
struct Table {
  const int64_t*
      thresholds;  // for each pair of adjacent values, the least key that becomes the upper one
  const int64_t* values;  // bits of the values, ascending
  int32_t count;          // of values
  int32_t random_bits, has_negative_zero;
  int64_t low, high;  // keys of the ends of the range
  OverflowResult above, below, positive_infinity, negative_infinity;
  SignView positive, negative;
  TableIndex index;
  TableSpacing spacing;
};

/// How many of ascending integers are not above x.
QS_FUNCTION int not_above(const int64_t* ascending, int count, int64_t x) {
  int first = 0;
  while (count > 0) {
    const int half = count / 2;
    const bool right = ascending[first + half] <= x;
    first = right ? first + half + 1 : first;
    count = right ? count - half - 1 : half;
  }
  return first;
}

/// ν = (⌊x/2^g⌋ - start + what is left of x)/divisor: `width` + 1 bits, then whether anything is
/// left.
template <class C>
QS_FUNCTION Fraction<uint64_t> fraction_in(uint64_t sig, int shift, uint64_t start,
                                           uint64_t divisor) {
  uint64_t units, tail = 0;  // tail: the next 64 bits of x below the unit
  bool more = false;
  if (shift >= 0) {
    units = sig << (shift & 63);
  } else if (-shift < 64) {
    units = sig >> -shift;
    tail = sig << (64 + shift);
  } else {
    units = 0;
    const int down = -shift - 64;
    tail = down < 64 ? sig >> down : 0;
    more = down < 64 ? (tail << (down & 63)) != sig : sig != 0;
  }
  // The quotient of 128 bits by 62 in two steps of at most 33 bits each keeps every remainder in
  // 128.
  uint128 rest = units - start;
  rest = (rest << 32) | (tail >> 32);
  const uint64_t upper = uint64_t(rest / divisor);
  rest = ((rest % divisor) << 32) | (tail & 0xFFFFFFFFu);
  const uint64_t lower = uint64_t(rest / divisor);
  rest %= divisor;
  rest <<= 1;
  const uint64_t next = rest >= divisor, left = (rest != (next ? divisor : 0)) || more;
  return {upper << 32 | lower, next << 63 | left};
}

/// The range check and the special values; `bits`: of the value that x saturates to.
template <class C>
QS_FUNCTION typename C::Word checked_in_table(typename C::Word raw, typename C::Word bits,
                                              const Table& t) {
  using Word = typename C::Word;
  const Word magnitude = raw & (C::sign - 1);
  if (magnitude > C::infinity) return raw;
  const bool minus = (raw & C::sign) != 0, infinite = magnitude == C::infinity;
  const int64_t key = minus ? -int64_t(magnitude) : int64_t(magnitude);
  if (t.has_negative_zero && minus && bits == 0) bits = C::sign;
  if (!infinite && key >= t.low && key <= t.high) return bits;
  const OverflowResult where = infinite ? (minus ? t.negative_infinity : t.positive_infinity)
                                        : (key < t.low ? t.below : t.above);
  const Word size = bits & (C::sign - 1);
  return (bits & C::sign) | overflow_result<C>(where, size, size);
}

/// One element, as bits.
template <class C>
QS_FUNCTION typename C::Word round_to_table(Mode mode, typename C::Word raw, uint64_t word,
                                            const Table& t) {
  using Word = typename C::Word;
  const Word magnitude = raw & (C::sign - 1);
  if (magnitude > C::infinity) return raw;
  const bool minus = (raw & C::sign) != 0;
  const int64_t key = minus ? -int64_t(magnitude) : int64_t(magnitude);
  Word bits;
  if (is_stochastic(mode)) {
    const bool negative = minus && magnitude != 0;
    const SignView& f = negative ? t.negative : t.positive;
    const int last = t.count - 1;
    int index = not_above(f.keys, f.key_count, int64_t(magnitude)) + f.not_positive - 1;
    if (index >= 0 && index < last) {
      const Word field = greatest_of(Word(1), Word(magnitude >> C::mantissa));
      const Word sig = magnitude - ((field - 1) << C::mantissa);
      const int ulp = int(field) + C::least_exponent - 1;
      const Fraction<uint64_t> nu =
          fraction_in<C>(sig, ulp - f.ulp_exponents[index], uint64_t(f.starts[index]),
                         uint64_t(f.divisors[index]));
      index += rounds_up(mode, nu, uint64_t(0), uint64_t(negative), word,
                         top_bits<uint64_t>(t.random_bits))
                   ? 1
                   : 0;
    }
    bits = Word(uint64_t(f.bits[index < 0 ? 0 : index > last ? last : index]));
  } else {
    bits = Word(uint64_t(t.values[not_above(t.thresholds, t.count - 1, key)]));
  }
  bits &= C::sign | (C::sign - 1);
  return checked_in_table<C>(raw, bits, t);
}

QS_END
