// Elements under scales that are no powers of two, one by one (clauses BLK-4, BLK-10, BLK-11,
// BLK-15); the C++ of `reference/block_round.py`.
#pragma once
#include "common/scales.h"
#include "common/table.h"

QS_BEGIN

/// Magnitude bits of a number, cut toward zero to the dtype, but for zero those of no zero: in
/// formats without zero what rounds to less than the dtype has is raised by the range check.
template <class C>
QS_FUNCTION typename C::Word nonzero_bits(Number<C> x) {
  return greatest_of(join<C>(x), typename C::Word(x.significand != 0));
}

/// An element under a scale that is no power of two (BLK-4, BLK-10, BLK-11): divided, rounded,
/// multiplied again.
template <class C>
QS_FUNCTION typename C::Word round_scaled(Mode mode, typename C::Word raw, typename C::Word word,
                                          const Scale<C>& scale, const Constants<C>& s,
                                          const Constants<Single>& s32, const Element& f,
                                          Rule rule) {
  using Word = typename C::Word;
  const Word magnitude = raw & (C::sign - 1), negative = raw >> (C::storage - 1);
  if (magnitude > C::infinity) return raw;
  const Word finite = magnitude == C::infinity ? 0 : magnitude;
  Word element;
  if (has_inverse(rule)) {
    const uint32_t sign = negative ? Single::sign : 0;
    const uint32_t scaled = multiply32(to_binary32<C>(finite), scale.inverse) | sign;
    const uint32_t r =
        rounded<Single, Shape::any>(mode, scaled, uint32_t(word >> (C::width - 32)), s32, f, 0);
    const Number<Single> x = number_of_bits<Single>(r);  // infinity: 2^128, beyond every range
    element = checked<C, Shape::any>(
        raw,
        nonzero_bits<C>(
            {x.exponent, Word(x.significand) << (C::significand - Single::significand)}),
        s);
  } else {
    const Number<C> x = number_of_bits<C>(finite);
    const Number<C> r = round_quotient<C>(mode, x.significand, x.exponent - C::significand,
                                          scale.number, f, negative, word, s.random_mask);
    if (rule == Rule::minmax) {
      const OverflowResult infinity = negative ? f.negative_infinity : f.positive_infinity;
      if (magnitude == C::infinity && infinity != OverflowResult::to_bound)
        return infinity == OverflowResult::to_nan ? C::nan : raw;
      const Word bound = negative ? scale.zero_point
                                  : Word(integer_of<C>({f.max_exponent, Word(f.max_significand)})) -
                                        scale.zero_point;
      const Word n = magnitude == C::infinity ? bound : least_of(integer_of(r), bound);
      element = join<C>(number<C>(n, 0)) | (n && negative ? C::sign : 0);
    } else {
      element = checked<C, Shape::any>(raw, nonzero_bits<C>(r), s);
    }
  }
  const Word size = element & (C::sign - 1);
  if (size == 0 || size >= C::infinity) return element;
  Word bits;
  if (is_vendor(rule) && C::mantissa < Single::mantissa) {
    const Number<C> x = number_of_bits<C>(size);
    const uint32_t exact =
        product<Single>({x.exponent, uint32_t(x.significand)},
                        {scale.number.exponent, uint32_t(scale.number.significand)});
    const Number<Single> y = number_of_bits<Single>(exact);
    bits = exact == Single::infinity ? C::infinity
                                     : pack<C>(y.significand, y.exponent - Single::significand);
  } else {
    bits = product<C>(number_of_bits<C>(size), scale.number);
  }
  return least_of(bits, C::infinity - 1) | (element & C::sign);
}

/// An element of a table under a scale (BLK-15): divided, and rounded to odd at 53 bits, which no
/// mode tells from the quotient. t: the table in float64.
template <class C>
QS_FUNCTION typename C::Word round_scaled_to_table(Mode mode, typename C::Word raw, uint64_t word,
                                                   Number<C> scale, const Table& t) {
  using Word = typename C::Word;
  const Word magnitude = raw & (C::sign - 1), negative = raw >> (C::storage - 1);
  if (magnitude > C::infinity) return C::nan;
  uint64_t quotient = 0;
  if (magnitude == C::infinity) {
    quotient = Double::infinity;
  } else if (magnitude != 0) {
    const Number<C> x = number_of_bits<C>(magnitude);
    const bool less = x.significand < scale.significand;
    const uint128 shifted = uint128(x.significand) << (Double::significand + less);
    const uint64_t n = uint64_t(shifted / scale.significand);
    const int e = x.exponent - scale.exponent - less;
    quotient = e > Double::bias       ? Double::infinity - 1
               : e < 1 - Double::bias ? 1
                                      : join<Double>({e, n | (shifted % scale.significand != 0)});
  }
  const uint64_t element =
      round_to_table<Double>(mode, quotient | (negative ? Double::sign : 0), word, t);
  const uint64_t size = element & (Double::sign - 1);
  const Word sign = element & Double::sign ? C::sign : 0;
  if (size > Double::infinity) return C::nan | sign;
  if (size == Double::infinity) return C::infinity | sign;
  if (size == 0) return sign;
  const Number<Double> value = number_of_bits<Double>(size);
  const Word bits = product<C>(
      {value.exponent, Word(value.significand >> (Double::significand - C::significand))}, scale);
  return least_of(bits, C::infinity - 1) | sign;
}

QS_END
