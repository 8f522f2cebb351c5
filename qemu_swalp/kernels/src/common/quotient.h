// Quotients and products of floats, rounded once (clauses BLK-8 to BLK-11); the C++ of
// `engine/quotient.py`.
#pragma once
#include "common/element.h"

QS_BEGIN

/// ν = numerator/divisor < 1 in two words, where stochastic modes need all of it.
template <class C>
QS_FUNCTION Fraction<typename C::Lane> fraction_of_quotient(Mode mode, typename C::Lane numerator,
                                                            typename C::Lane divisor) {
  using Lane = typename C::Lane;
  using Wide = typename C::Wide;
  constexpr Lane top = Lane(1) << (C::width - 1);
  if (!is_stochastic(mode)) {  // on which side of 1/2, and whether anything is left
    const Lane twice = numerator * 2;
    return twice >= divisor ? Fraction<Lane>{top, Lane(twice != divisor)}
                            : Fraction<Lane>{0, Lane(twice != 0)};
  }
  const Wide shifted = Wide(numerator) << (C::width + 1), bits = shifted / divisor;
  return {Lane(bits >> 1), (Lane(bits & 1) << (C::width - 1)) | Lane(shifted % divisor != 0)};
}

/// sig·2^ulp/divisor rounded to a multiple of its spacing, from the exact quotient; before the
/// range check.
template <class C>
QS_FUNCTION Number<C> round_quotient(Mode mode, typename C::Lane sig, int ulp, Number<C> divisor,
                                     const Element& f, typename C::Lane negative,
                                     typename C::Lane word, typename C::Lane kept) {
  using Lane = typename C::Lane;
  using Wide = typename C::Wide;
  const Number<C> dividend = number<C>(sig, ulp);
  if (dividend.significand == 0) return {0, 0};
  const Lane d = divisor.significand;
  const bool less = dividend.significand < d;
  const int e = dividend.exponent - divisor.exponent - less;
  if (e > greatest_of(f.max_exponent, f.min_exponent))
    return {e, C::hidden};  // beyond the range, however far
  const Lane leading =
      less ? dividend.significand * 2 : dividend.significand;  // leading/d in [1, 2)
  const int q = quantum(f, e), more = e - q;
  Lane n = 0;
  Fraction<Lane> nu;
  if (more >= 0) {
    const Wide shifted = Wide(leading) << more;
    n = Lane(shifted / d);
    nu = fraction_of_quotient<C>(mode, Lane(shifted - Wide(n) * d), d);
  } else if (!is_stochastic(mode)) {
    constexpr Lane top = Lane(1) << (C::width - 1);
    nu = more == -1 ? Fraction<Lane>{top, Lane(leading != d)} : Fraction<Lane>{0, 1};
  } else {
    const Wide shifted = Wide(leading) << (C::width + 1),
               bits = shifted / d;  // width + 2 bits, the first of them 1
    const int down = least_of(-more, int(C::width) + 2);
    const Wide found = bits >> down;
    const bool left = shifted % d != 0 || (found << down) != bits;
    nu = {Lane(found >> 1), (Lane(found & 1) << (C::width - 1)) | Lane(left)};
  }
  n += goes_away(mode, nu, Lane(n & 1), negative, word, kept) ? 1 : 0;
  return number<C>(n, q);
}

/// A positive value of a format of scales: its greatest for what is above, its least for zero and
/// what is below.
template <class C>
QS_FUNCTION Number<C> in_range(Number<C> x, const Element& scale) {
  const Number<C> greatest = {scale.max_exponent, typename C::Lane(scale.max_significand)};
  const Number<C> least = {scale.least_exponent, C::hidden};
  if (x.significand == 0 || x.exponent < least.exponent) return least;
  const bool beyond = x.exponent > greatest.exponent ||
                      (x.exponent == greatest.exponent && x.significand > greatest.significand);
  return beyond ? greatest : x;
}

/// Magnitude bits of a·b, rounded once to nearest even; infinity beyond the range.
template <class C>
QS_FUNCTION typename C::Lane product(Number<C> a, Number<C> b) {
  using Wide = typename C::Wide;
  return pack<C>(Wide(a.significand) * b.significand, a.exponent + b.exponent - 2 * C::significand);
}

// float32 arithmetic on magnitude bits, each step rounded once to nearest even, subnormals kept
// (clause BLK-11)

constexpr uint32_t largest32 = 0x7F7FFFFFu, one32 = 0x3F800000u;

// V: a lane, or on a CPU a vector of them.

/// a·b; zero times infinity is zero.
template <class V>
QS_FUNCTION V multiply32(V a, V b);
template <>
QS_FUNCTION uint32_t multiply32(uint32_t a, uint32_t b) {
  if (a == 0 || b == 0) return 0;
  if (a == Single::infinity || b == Single::infinity) return Single::infinity;
  return product<Single>(number_of_bits<Single>(a), number_of_bits<Single>(b));
}

/// a/b, b finite; zero divided by zero is zero.
template <class V>
QS_FUNCTION V divide32(V a, V b);
template <>
QS_FUNCTION uint32_t divide32(uint32_t a, uint32_t b) {
  if (a == 0) return 0;
  if (a == Single::infinity || b == 0) return Single::infinity;
  const Number<Single> x = number_of_bits<Single>(a), y = number_of_bits<Single>(b);
  const uint64_t shifted = uint64_t(x.significand) << 40, found = shifted / y.significand;
  return pack<Single>(found, x.exponent - y.exponent - 40, found * y.significand != shifted);
}

/// float32 magnitude bits of those of a dtype that float32 holds.
template <class C>
QS_FUNCTION uint32_t to_binary32(typename C::Lane magnitude) {
  if (magnitude >= C::infinity) return Single::infinity + (magnitude > C::infinity);
  const Number<C> x = number_of_bits<C>(magnitude);
  return join<Single>({x.exponent, uint32_t(x.significand)});
}

QS_END
