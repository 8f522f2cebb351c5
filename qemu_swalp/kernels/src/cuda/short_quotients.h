// float32 numbers under scales that are no powers of two, by the sequences of short_rounding.h.
//
// A quotient m/s is estimated by q = m·(1/s). Both roundings err by 2^-24 at most, so
// |q - m/s| < 2^-22 q. The rounding of q is that of the quotient unless what decides lies between
// them: a midpoint, or for a random word the fraction at which the sum carries. Such packs are
// rounded by exact quotients. Rules that multiply by an inverse define the product to be q.
#pragma once
#include "common/scales.h"
#include "cuda/short_rounding.h"

QS_BEGIN

/// A scale as floats.
struct ShortScale {
  float scale, inverse;
  bool exact;  // whether q is what is rounded
};

/// Of a block; false if neither rule nor size allow it.
QS_DEVICE bool short_scale_of(const Scale<Single>& scale, Rule rule, ShortScale& to) {
  if (is_power(rule) || rule == Rule::minmax || scale.nan || scale.special) return false;
  constexpr uint32_t least = 27u << Single::mantissa, greatest = 227u << Single::mantissa;
  const uint32_t bits = join<Single>(scale.number);
  if (bits < least || bits > greatest) return false;
  to.scale = bits_as<float>(bits);
  to.exact = has_inverse(rule);
  to.inverse = to.exact ? bits_as<float>(scale.inverse) : divide(1.0f, to.scale);
  return !to.exact || (scale.inverse >= least && scale.inverse <= greatest);
}

/// A finite number rounded; s: a way that is `saturating`. unsure: whether exact quotients might
/// give another one.
template <bool stochastic>
QS_DEVICE uint32_t round_quotient_shortly(uint32_t raw, uint32_t word, const ShortScale& scale,
                                          const Short& s, bool& unsure) {
  constexpr uint32_t one = 1u << Single::mantissa;
  const float error = bits_as<float>((127 - 22) * one);  // 2^-22
  const uint32_t limit = int32_t(raw) < 0 ? s.negative_limit : s.limit;
  const float q = multiply(bits_as<float>(raw & (Single::sign - 1)), scale.inverse);
  const uint32_t cut = least_of(bits_as<uint32_t>(q), limit);
  const uint32_t field = greatest_of(cut & Single::infinity, s.lowest) + s.magic;
  const float m = bits_as<float>(cut), large = bits_as<float>(field);
  float r;
  if (stochastic) {
    const float below = subtract(add_toward_zero(m, large), large);
    const float units = bits_as<float>(309 * one - field);  // 2^32 / 2^q
    const uint32_t sum = floor_of(multiply(subtract(m, below), units)) + word;
    const uint32_t near = floor_of(multiply(multiply(m, error), units)) + 1;
    unsure |= !scale.exact && sum + near <= 2 * near;
    r = sum < word ? add(below, bits_as<float>(field - 23 * one)) : below;
  } else {
    r = subtract(add(m, large), large);
    const float away = bits_as<float>(bits_as<uint32_t>(subtract(m, r)) & (Single::sign - 1));
    const float beside = subtract(away, bits_as<float>(field - 24 * one));
    unsure |= !scale.exact && (bits_as<uint32_t>(beside) & (Single::sign - 1)) <=
                                  bits_as<uint32_t>(multiply(m, error));
  }
  const uint32_t sign = raw & Single::sign;
  const float element = add(bits_as<float>(bits_as<uint32_t>(r) | sign), bits_as<float>(s.zero));
  const uint32_t bits = bits_as<uint32_t>(multiply(element, scale.scale));
  return least_of(bits & (Single::sign - 1), Single::infinity - 1) | (bits & Single::sign);
}

QS_END
