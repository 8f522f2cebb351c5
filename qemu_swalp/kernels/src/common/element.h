// Rounding to a binade format (clauses RND-2 to RND-10); the C++ of `reference/element.py`.
//
// No product, sum or comparison of floats: neither flush-to-zero modes nor contraction can change a
// bit. There is no branch in what a loop over elements runs, so compilers turn it into vector code.
#pragma once
#include "common/dtype.h"
#include "common/rounding.h"

QS_BEGIN

/// What becomes of a class of elements that the format has no value for (clauses RND-7, RND-8).
enum class OverflowResult : int32_t { to_bound, to_infinity, to_nan, to_least, to_zero };

/// A binade format: quantum(e) = ulp_exponent where e < breakpoint, else e - fraction; or by a
/// table.
struct Element {
  int32_t breakpoint, ulp_exponent, fraction;
  int32_t table_first, table_count;  // quanta by binade from `table_first` on; count 0: no table
  const int32_t* table;
  int32_t max_exponent, min_exponent,
      least_exponent;  // binades of max, -min and the least positive value
  int32_t is_signed, has_zero, has_negative_zero;
  uint64_t max_significand,
      min_significand;  // of max and -min, normalized to the source dtype's `significand`
  OverflowResult above, below, positive_infinity, negative_infinity, zero;
  int32_t random_bits;
};

/// What the rounding of an element needs to know of its format under a scale 2^S. V: a word of the
/// source dtype, or a vector of words under scales of their own.
template <class C, class V = typename C::Word>
struct Constants {
  V breakpoint, ulp_exponent;  // biased exponent fields; 0 where they lie below
  V tiny;   // bits of the least positive value, below which every spacing is that value
  V least;  // what non-zero results are raised to; 0 in formats with a zero
  V bound, negative_bound;
  V above, below, positive_infinity, negative_infinity, zero;
  typename C::Word normal;         // shift above the breakpoint
  typename C::Word sign;           // 0 in unsigned formats
  typename C::Word negative_zero;  // the sign bit where a zero keeps it, else 0
  typename C::Word random_mask;    // the random bits that count
};

/// How the loop over the elements is specialized.
enum class Shape : int32_t {
  saturating,  // whatever is beyond the range goes to its end; has a zero; the source's subnormals
               // need no look
  regular,     // the source's subnormals need no look
  any,
};

template <class C>
QS_FUNCTION typename C::Word overflow_result(OverflowResult where, typename C::Word bound,
                                             typename C::Word least) {
  switch (where) {
    case OverflowResult::to_infinity:
      return C::infinity;
    case OverflowResult::to_nan:
      return C::nan;
    case OverflowResult::to_least:
      return least;
    case OverflowResult::to_zero:
      return 0;
    default:
      return bound;
  }
}

template <class Word>
QS_FUNCTION Word top_bits(int random_bits) {
  return Word(0) - (Word(1) << (8 * int(sizeof(Word)) - (random_bits ? random_bits : 1)));
}

template <class C>
QS_FUNCTION Constants<C> constants_of(const Element& f, int scale) {
  using Word = typename C::Word;
  Constants<C> s;
  s.breakpoint = Word(greatest_of(0, f.breakpoint + scale + C::bias));
  s.ulp_exponent = Word(greatest_of(0, f.ulp_exponent + scale - C::least_exponent + 1));
  s.normal = Word(greatest_of(0, C::mantissa - f.fraction));
  s.tiny = join<C>({f.least_exponent + scale, C::hidden});
  const Word least = f.has_zero ? 0 : s.tiny;
  s.least = least;
  s.bound = join<C>({f.max_exponent + scale, Word(f.max_significand)});
  s.negative_bound = f.is_signed ? join<C>({f.min_exponent + scale, Word(f.min_significand)}) : 0;
  const Word lowest = f.is_signed ? s.negative_bound : least;
  s.above = overflow_result<C>(f.above, s.bound, least);
  s.below = overflow_result<C>(f.below, lowest, least);
  s.positive_infinity = overflow_result<C>(f.positive_infinity, s.bound, least);
  s.negative_infinity = overflow_result<C>(f.negative_infinity, lowest, least);
  if (f.negative_infinity == OverflowResult::to_infinity)
    s.negative_infinity |= C::sign;  // unsigned, too
  s.zero = overflow_result<C>(f.zero, 0, least);
  s.sign = f.is_signed ? C::sign : 0;
  s.negative_zero = f.has_negative_zero ? C::sign : 0;
  s.random_mask = top_bits<Word>(f.random_bits);
  return s;
}

/// The least that suffices under this scale. infinities: whether the elements may be infinite.
template <class C>
QS_FUNCTION Shape shape_of(const Element& f, int scale, bool infinities) {
  // A subnormal source counts as of the least normal binade. That is right below the breakpoint,
  // and at the breakpoint where the spacings meet there.
  const int breakpoint = f.breakpoint + scale + C::bias;
  const bool meets = f.ulp_exponent == f.breakpoint - f.fraction;
  if (f.table_count || breakpoint < 1 || (breakpoint == 1 && !meets)) return Shape::any;
  const bool saturates = f.has_zero && f.above == OverflowResult::to_bound &&
                         f.below == OverflowResult::to_bound &&
                         (!infinities || (f.positive_infinity == OverflowResult::to_bound &&
                                          f.negative_infinity == OverflowResult::to_bound));
  return saturates ? Shape::saturating : Shape::regular;
}

/// Exponent of the spacing in a binade.
QS_FUNCTION int quantum(const Element& f, int e) {
  if (f.table_count == 0) return e < f.breakpoint ? f.ulp_exponent : e - f.fraction;
  const int i = e - f.table_first;
  return f.table[i < 0 ? 0 : i < f.table_count ? i : f.table_count - 1];
}

/// The range check and the special values (RND-7 to RND-10): bits of the result, sign included.
/// `r`: rounded magnitude bits, as if there were no range.
template <class C, Shape shape, class V, class Fields>
QS_INLINE V checked(V raw, V r, const Fields& s) {
  const V none = V(), magnitude = raw & (C::sign - 1);
  const auto nan = signed_of(magnitude) > signed_of(none + C::infinity);
  const auto negative = signed_of(V(raw << (C::width - C::storage))) < signed_of(none);
  const V bound = select<V>(negative, none + s.negative_bound, none + s.bound);
  if (shape == Shape::saturating) {
    const V out = lesser<V>(r, bound);
    const V sign = raw & select<V>(out == none, none + s.negative_zero, none + C::sign);
    return select<V>(nan, raw, out | sign);
  }
  const auto infinite = magnitude == none + C::infinity;
  const auto zero = (r == none) & (magnitude != none + C::infinity);
  const V raised = greater<V>(r, none + s.least);
  V out = select<V>(signed_of(raised) > signed_of(bound),
                    select<V>(negative, none + s.below, none + s.above), raised);
  out = select<V>(infinite,
                  select<V>(negative, none + s.negative_infinity, none + s.positive_infinity), out);
  out = select<V>(zero, none + s.zero, out);
  out = out | (raw & select<V>(zero, none + s.negative_zero, none + s.sign));
  return select<V>(nan, raw, out);
}

/// Magnitude bits rounded to a multiple of the spacing; the range comes after. Shape::any is for
/// single words.
template <class C, Shape shape, class M, class V, class Fields>
QS_INLINE V rounded(M mode, V raw, V word, const Fields& s, const Element& f, int scale) {
  using Word = typename C::Word;
  constexpr Word width = C::width;
  const V none = V(), magnitude = raw & (C::sign - 1);
  const V stored_field = magnitude >> C::mantissa;
  const V field = greater<V>(stored_field, none + 1);
  const V base = (field - 1) << C::mantissa, sig = magnitude - base;
  V shift;
  if constexpr (shape == Shape::any) {
    const int ulp = int(field) + C::least_exponent - 1, e = sig ? lead(sig) + ulp : ulp;
    shift = Word(greatest_of(0, quantum(f, e - scale) + scale - ulp));
  } else {
    const V below = greater<V>(s.ulp_exponent - field, none);
    shift = select<V>(signed_of(field) < signed_of(none + s.breakpoint), below, none + s.normal);
  }
  // From C::mantissa + 2 on, ν < 1/2 and n = 0: there deterministic modes see no difference.
  const Word limit = is_stochastic(mode) ? 2 * width - 1 : Word(C::mantissa + 2);
  shift = lesser<V>(shift, none + limit);
  V small = shift;
  Fraction<V> nu;
  if (is_stochastic(mode)) {
    small = lesser<V>(shift, none + (width - 1));
    nu = fraction_of(sig, shift);
  } else {
    nu = {(sig << 1) << (width - 1 - shift), none};
  }
  const V odd = (sig >> small) & 1;
  const V up = one_where<V>(rounds_up(mode, nu, odd, raw >> (C::storage - 1), word, s.random_mask));
  // Without normalization: the exponent field takes the carry. Where n is 0 whatever the binade,
  // the away candidate is the least positive value.
  const V multiple = (magnitude & (~none << small)) + (up << small);
  return select<V>(signed_of(shift) <= signed_of(none + C::mantissa), multiple,
                   (none - up) & s.tiny);
}

/// One element, as bits.
template <class C, Shape shape, class M, class V, class Fields>
QS_INLINE V round_element(M mode, V raw, V word, const Fields& s, const Element& f, int scale) {
  return checked<C, shape>(raw, rounded<C, shape>(mode, raw, word, s, f, scale), s);
}

QS_END
