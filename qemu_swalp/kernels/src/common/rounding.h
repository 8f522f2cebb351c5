// Which neighbour is taken (clause RND-4); the C++ of `rounding.py`.
//
// V is the unsigned integer of a source dtype, or on a CPU a vector of such; what a comparison of V
// gives is a mask.
#pragma once
#include "common/portable.h"

QS_BEGIN

enum class Mode : int32_t {
  nearest_even,
  nearest_away,
  nearest_zero,
  nearest_up,
  toward_zero,
  toward_positive,
  toward_negative,
  to_odd,
  stochastic_a,
  stochastic_b,
  stochastic_c,
};

/// A mode that is known when the program is compiled. Functions take M, which is this or Mode: one
/// body for both.
template <Mode value>
struct Known {
  QS_INLINE constexpr operator Mode() const { return value; }
};

QS_INLINE constexpr bool is_nearest(Mode mode) { return mode <= Mode::nearest_up; }
QS_INLINE constexpr bool is_stochastic(Mode mode) { return mode >= Mode::stochastic_a; }

/// nearest_away, nearest_zero or nearest_up: one body for the three, whose ties go by the sign. As
/// a constant of the compiler it is the first of them.
struct TiesBySign {
  Mode mode = Mode::nearest_away;

  QS_INLINE constexpr operator Mode() const { return mode; }
};
QS_INLINE constexpr bool is_nearest(TiesBySign) { return true; }
QS_INLINE constexpr bool is_stochastic(TiesBySign) { return false; }

/// A fraction ν in two words: ν·2^width = high + low/2^width; the last bit of `low` may stand for
/// all that is left.
template <class V>
struct Fraction {
  V high, low;
};

/// ν = sig/2^shift - ⌊sig/2^shift⌋ for 0 ≤ shift < 2·width; sig has at most width - 4 bits, so
/// where the shift was cut to 2·width - 1, ν is so small that `low` only has to be non-zero with a
/// clear top bit.
template <class V>
QS_INLINE Fraction<V> fraction_of(V sig, V shift) {
  using Word = word_of<V>;
  constexpr Word width = 8 * sizeof(Word), most = width - 1;
  const auto inside = signed_of(shift) < signed_of(V() + width);
  const V left = (sig << 1) << ((most - shift) & most), right = sig >> ((shift - width) & most);
  const V rest = (sig << 1) << ((2 * width - 1 - shift) & most);
  return {select<V>(inside, left, right), select<V>(inside, V(), rest)};
}

/// 1 where a tie of a nearest mode goes to the candidate away from zero; odd, negative: 0 or 1.
template <class V>
QS_INLINE V tie_of(Mode mode, V odd, V negative) {
  if (mode == Mode::nearest_even) return odd;
  if (mode == Mode::nearest_away) return V() + 1;
  return mode == Mode::nearest_up ? negative ^ 1 : V();
}

/// Whether the candidate away from zero is taken. odd, negative: 0 or 1. word: the random word in
/// the top 32 bits. random_mask: mask of the top N bits.
template <class M, class V>
QS_INLINE mask_of<V> rounds_up(M mode, Fraction<V> nu, V odd, V negative, V word,
                               word_of<V> random_mask) {
  using Word = word_of<V>;
  constexpr Word top = Word(1) << (8 * sizeof(Word) - 1);
  const V high = nu.high, low = nu.low, none = V();
  if (is_nearest(mode)) {
    const V tie = tie_of(mode, odd, negative);
    return signed_of(high ^ top) > signed_of(none - (tie | one_where<V>(low != none)));
  }
  if (mode == Mode::toward_positive) return ((high | low) != none) & (negative == none);
  if (mode == Mode::toward_negative) return ((high | low) != none) & (negative != none);
  if (mode == Mode::to_odd) return ((high | low) != none) & (odd == none);
  if (mode == Mode::toward_zero) return high != high;
  const V floor = high & random_mask, sum = floor + (word & random_mask);
  const auto carry = signed_of(sum ^ top) < signed_of(floor ^ top);
  if (mode == Mode::stochastic_a) return carry;
  const Word last = random_mask & (Word(0) - random_mask),
             next = last >> 1;  // weights 2^-N and 2^-(N+1); next is 0 where N = width
  auto up = next ? (high & next) != none : (low & top) != none;
  if (mode == Mode::stochastic_c) {
    const V below = next ? (high & (next - 1)) | low : low & (top - 1);
    up = up & ((below | (high & last)) != none);
  }
  return carry | (up & (sum == none + random_mask));
}

QS_END
