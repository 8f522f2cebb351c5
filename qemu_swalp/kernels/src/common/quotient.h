// Quotients and products of floats, rounded once (clauses BLK-8 to BLK-11); the C++ of
// `reference/division.py`.
#pragma once
#include "common/element.h"
#include "common/float_arithmetic.h"

QS_BEGIN

/// ν = numerator/divisor < 1 in two words, where stochastic modes need all of it.
template <class C>
QS_FUNCTION Fraction<typename C::Word> fraction_of_quotient(Mode mode, typename C::Word numerator,
                                                            typename C::Word divisor) {
  using Word = typename C::Word;
  using Wide = typename C::Wide;
  constexpr Word top = Word(1) << (C::width - 1);
  if (!is_stochastic(mode)) {  // on which side of 1/2, and whether anything is left
    const Word twice = numerator * 2;
    return twice >= divisor ? Fraction<Word>{top, Word(twice != divisor)}
                            : Fraction<Word>{0, Word(twice != 0)};
  }
  const Wide shifted = Wide(numerator) << (C::width + 1), bits = shifted / divisor;
  return {Word(bits >> 1), (Word(bits & 1) << (C::width - 1)) | Word(shifted % divisor != 0)};
}

/// sig·2^ulp/divisor rounded to a multiple of its spacing, from the exact quotient; before the
/// range check.
template <class C>
QS_FUNCTION Number<C> round_quotient(Mode mode, typename C::Word sig, int ulp, Number<C> divisor,
                                     const Element& f, typename C::Word negative,
                                     typename C::Word word, typename C::Word random_mask) {
  using Word = typename C::Word;
  using Wide = typename C::Wide;
  const Number<C> dividend = number<C>(sig, ulp);
  if (dividend.significand == 0) return {0, 0};
  const Word d = divisor.significand;
  const bool less = dividend.significand < d;
  const int e = dividend.exponent - divisor.exponent - less;
  if (e > greatest_of(f.max_exponent, f.min_exponent))
    return {e, C::hidden};  // beyond the range, however far
  const Word leading =
      less ? dividend.significand * 2 : dividend.significand;  // leading/d in [1, 2)
  const int q = quantum(f, e), more = e - q;
  Word n = 0;
  Fraction<Word> nu;
  if (more >= 0) {
    const Wide shifted = Wide(leading) << more;
    n = Word(shifted / d);
    nu = fraction_of_quotient<C>(mode, Word(shifted - Wide(n) * d), d);
  } else if (!is_stochastic(mode)) {
    constexpr Word top = Word(1) << (C::width - 1);
    nu = more == -1 ? Fraction<Word>{top, Word(leading != d)} : Fraction<Word>{0, 1};
  } else {
    const Wide shifted = Wide(leading) << (C::width + 1),
               bits = shifted / d;  // width + 2 bits, the first of them 1
    const int down = least_of(-more, int(C::width) + 2);
    const Wide top_words = bits >> down;
    const bool left = shifted % d != 0 || (top_words << down) != bits;
    nu = {Word(top_words >> 1), (Word(top_words & 1) << (C::width - 1)) | Word(left)};
  }
  n += rounds_up(mode, nu, Word(n & 1), negative, word, random_mask) ? 1 : 0;
  return number<C>(n, q);
}

/// A positive value of a format of scales: its greatest for what is above, its least for zero and
/// what is below.
template <class C>
QS_FUNCTION Number<C> in_range(Number<C> x, const Element& scale) {
  const Number<C> greatest = {scale.max_exponent, typename C::Word(scale.max_significand)};
  const Number<C> least = {scale.least_exponent, C::hidden};
  if (x.significand == 0 || x.exponent < least.exponent) return least;
  const bool beyond = x.exponent > greatest.exponent ||
                      (x.exponent == greatest.exponent && x.significand > greatest.significand);
  return beyond ? greatest : x;
}

/// Magnitude bits of a·b, rounded once to nearest even; infinity beyond the range.
template <class C>
QS_FUNCTION typename C::Word product(Number<C> a, Number<C> b) {
  using Wide = typename C::Wide;
  return pack<C>(Wide(a.significand) * b.significand, a.exponent + b.exponent - 2 * C::significand);
}

// float32 arithmetic on magnitude bits, each step rounded once to nearest even, subnormals kept
// (clause BLK-11)

constexpr uint32_t largest32 = 0x7F7FFFFFu, one32 = 0x3F800000u;

// V: a word, or on a CPU a vector of words.

/// a·b; zero times infinity is zero.
template <class V>
QS_FUNCTION V multiply32(V a, V b);
template <>
QS_FUNCTION uint32_t multiply32(uint32_t a, uint32_t b) {
  if (a == 0 || b == 0) return 0;
  if (a == Single::infinity || b == Single::infinity) return Single::infinity;
#if defined(__CUDA_ARCH__)  // there all arithmetic is of IEEE 754
  return bits_as<uint32_t>(multiply(bits_as<float>(a), bits_as<float>(b)));
#endif
  return product<Single>(number_of_bits<Single>(a), number_of_bits<Single>(b));
}

/// a/b, not both infinite; zero divided by zero is zero.
template <class V>
QS_FUNCTION V divide32(V a, V b);
template <>
QS_FUNCTION uint32_t divide32(uint32_t a, uint32_t b) {
  if (a == 0 || b == Single::infinity) return 0;
  if (a == Single::infinity || b == 0) return Single::infinity;
#if defined(__CUDA_ARCH__)
  return bits_as<uint32_t>(divide(bits_as<float>(a), bits_as<float>(b)));
#endif
  const Number<Single> x = number_of_bits<Single>(a), y = number_of_bits<Single>(b);
  const uint64_t shifted = uint64_t(x.significand) << 40, quotient = shifted / y.significand;
  return pack<Single>(quotient, x.exponent - y.exponent - 40, quotient * y.significand != shifted);
}

/// float32 magnitude bits of those of a dtype that float32 holds.
template <class C>
QS_FUNCTION uint32_t to_binary32(typename C::Word magnitude) {
  if (magnitude >= C::infinity) return Single::infinity + (magnitude > C::infinity);
  const Number<C> x = number_of_bits<C>(magnitude);
  return join<Single>({x.exponent, uint32_t(x.significand)});
}

QS_END
