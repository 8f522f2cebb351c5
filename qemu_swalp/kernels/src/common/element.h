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

constexpr int no_power = 1 << 30;  // above every power of a scale

/// How the loop over the elements is specialized.
enum class Shape : int32_t {
  saturating,  // whatever is beyond the range goes to its end; has a zero; the source's subnormals
               // need no look
  regular,     // the source's subnormals need no look
  any,
};

template <class C, class V>
QS_FUNCTION V overflow_result(OverflowResult where, V bound, V least) {
  const V none{};
  switch (where) {
    case OverflowResult::to_infinity:
      return none + C::infinity;
    case OverflowResult::to_nan:
      return none + C::nan;
    case OverflowResult::to_least:
      return least;
    case OverflowResult::to_zero:
      return none;
    default:
      return bound;
  }
}

template <class Word>
QS_FUNCTION Word top_bits(int random_bits) {
  return Word(0) - (Word(1) << (8 * int(sizeof(Word)) - (random_bits ? random_bits : 1)));
}

/// Of a format under the scales 2^S; `scale`: S as signed words.
template <class C, class V>
QS_FUNCTION Constants<C, V> constants_under(const Element& f, V scale) {
  using Word = typename C::Word;
  const V none{};
  Constants<C, V> s;
  s.breakpoint = greater<V>(scale + Word(f.breakpoint + C::bias), none);
  s.ulp_exponent = greater<V>(scale + Word(f.ulp_exponent - C::least_exponent + 1), none);
  s.normal = Word(greatest_of(0, C::mantissa - f.fraction));
  s.tiny = joined<C, V>(scale + Word(f.least_exponent), C::hidden);
  const V least = f.has_zero ? none : s.tiny;
  s.least = least;
  s.bound = joined<C, V>(scale + Word(f.max_exponent), Word(f.max_significand));
  s.negative_bound =
      f.is_signed ? joined<C, V>(scale + Word(f.min_exponent), Word(f.min_significand)) : none;
  const V lowest = f.is_signed ? s.negative_bound : least;
  // Where the range ends beyond the source dtype's, what rounds beyond that is in the range, and
  // becomes the greatest finite number.
  const V last = none + Word(C::bias);
  s.above = select<V>(signed_of(V(scale + Word(f.max_exponent))) > signed_of(last), s.bound,
                      overflow_result<C, V>(f.above, s.bound, least));
  s.below = select<V>(signed_of(V(scale + Word(f.min_exponent))) > signed_of(last), lowest,
                      overflow_result<C, V>(f.below, lowest, least));
  s.positive_infinity = overflow_result<C, V>(f.positive_infinity, s.bound, least);
  s.negative_infinity = overflow_result<C, V>(f.negative_infinity, lowest, least);
  if (f.negative_infinity == OverflowResult::to_infinity)
    s.negative_infinity |= C::sign;  // unsigned, too
  s.zero = overflow_result<C, V>(f.zero, none, least);
  s.sign = f.is_signed ? C::sign : 0;
  s.negative_zero = f.has_negative_zero ? C::sign : 0;
  s.random_mask = top_bits<Word>(f.random_bits);
  return s;
}

template <class C>
QS_FUNCTION Constants<C> constants_of(const Element& f, int scale) {
  using Word = typename C::Word;
  return constants_under<C, Word>(f, Word(scale));
}

/// The least power of a scale under which the loop need not be `Shape::any`: the source's
/// subnormals count as of the least normal binade, which is right below the breakpoint, and at the
/// breakpoint where the spacings meet there.
template <class C>
QS_FUNCTION int least_regular_power(const Element& f) {
  const bool meets = f.ulp_exponent == f.breakpoint - f.fraction;
  return f.table_count ? no_power : 1 - C::bias - f.breakpoint + !meets;
}

/// Whether all that is beyond the range goes to its ends. infinities: whether there are any.
QS_FUNCTION bool saturates(const Element& f, bool infinities) {
  return f.has_zero && f.above == OverflowResult::to_bound && f.below == OverflowResult::to_bound &&
         (!infinities || (f.positive_infinity == OverflowResult::to_bound &&
                          f.negative_infinity == OverflowResult::to_bound));
}

/// The least that suffices under this scale. infinities: whether the elements may be infinite.
template <class C>
QS_FUNCTION Shape shape_of(const Element& f, int scale, bool infinities) {
  if (scale < least_regular_power<C>(f)) return Shape::any;
  return saturates(f, infinities) ? Shape::saturating : Shape::regular;
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
/// single words. unsure: if it is asked for, where a number up to `step` bits above, a stochastic
/// mode would have gone further up.
template <class C, Shape shape, class M, class V, class Fields>
QS_INLINE V rounded(M mode, V raw, V word, const Fields& s, const Element& f, int scale,
                    V step = V(), mask_of<V>* unsure = nullptr) {
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
  const V negative = raw >> (C::storage - 1);
  const auto away = rounds_up(mode, nu, odd, negative, word, s.random_mask);
  if (unsure) {
    const V above = sig + step;
    const auto further =
        rounds_up(mode, fraction_of(above, shift), odd, negative, word, s.random_mask);
    *unsure = (away == (none != none)) & (further | ((above >> small) != (sig >> small)));
  }
  const V up = one_where<V>(away);
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
