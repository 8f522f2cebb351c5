// Nearest even and stochastic rounding (mode A, of all 32 random bits) of float32 numbers in a
// dozen instructions, without a branch, for formats of one spacing rule within float32's range.
//
// For a magnitude m below 2^23 spacings of 2^q let M = 2^(q + 23). Then m + M lies in [M, 2M),
// where float32 numbers are 2^q apart, and M is an even multiple of that: the sum is rounded to a
// multiple of 2^q by the adder, ties to the even one, and less M it is exact (Sterbenz). Rounded
// toward zero the same gives the multiple t below m, and m - t is exact; its 32 bits below 2^q are
// what a random word is added to. 16-bit numbers are float32 numbers, and so are their roundings.
#pragma once
#include "common/element.h"
#include "common/float_arithmetic.h"
#include "cuda/packs.h"
#include "cuda/storage.h"

QS_BEGIN

/// Which sequence rounds.
enum class Way : uint32_t {
  none,        // neither: `round_element`
  saturating,  // what is beyond the range goes to its ends
  regular,     // to one value, whatever its sign
  bits,        // all binades have the same number of bits: integers do
};

/// Words of a rounding.
struct Short {
  Way way;
  uint32_t limit, negative_limit;       // magnitudes are cut to these first
  uint32_t lowest;                      // exponent field, in place, of the breakpoint
  uint32_t magic;                       // M less the exponent field; or how many bits are cut
  uint32_t bound, beyond;               // of the range; what is put for more
  uint32_t zero;                        // added to a result: +0 makes +0 of -0, -0 leaves it
  int32_t least_power, greatest_power;  // of scales under which that is so

  /// Under the scale 2^S, where `way` is `saturating` and S between these powers.
  QS_DEVICE Short under(int power) const {
    const uint32_t up = uint32_t(power) << Single::mantissa;
    Short scaled = *this;
    scaled.limit += up;
    scaled.negative_limit += up;
    (lowest == one_spacing ? scaled.magic : scaled.lowest) += up;
    return scaled;
  }

  static constexpr uint32_t one_spacing = 254u << Single::mantissa;
};

/// Modes that have these sequences.
QS_INLINE constexpr bool is_short(Mode mode) {
  return mode == Mode::nearest_even || mode == Mode::stochastic_a;
}

template <class C>
constexpr bool is_in_float32 = C::width == 32;

#if defined(__CUDA_ARCH__)
QS_INLINE float add_toward_zero(float a, float b) {
  asm("add.rz.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE uint32_t floor_of(float a) {
  uint32_t n;
  asm("cvt.rzi.u32.f32 %0, %1;" : "=r"(n) : "f"(a));
  return n;
}
#else
/// a + b of a ≤ b, not negative.
QS_INLINE float add_toward_zero(float a, float b) {
  const float sum = a + b;
  return double(sum) > double(a) + double(b) ? bits_as<float>(bits_as<uint32_t>(sum) - 1) : sum;
}
QS_INLINE uint32_t floor_of(float a) { return uint32_t(a); }
#endif

/// The rounding to a format of numbers of C. infinities: whether there are any.
template <class C>
QS_DEVICE Short short_of(const Element& f, bool stochastic, bool infinities) {
  constexpr uint32_t sign = Single::sign, one = 1u << Single::mantissa;
  const Constants<Single> s = constants_of<Single>(f, 0);
  const uint32_t normal = s.normal, end = s.bound | s.negative_bound;
  Short found{Way::none,
              s.bound,
              s.negative_bound,
              s.breakpoint * one,
              normal * one,
              s.bound,
              s.above,
              s.negative_zero,
              0,
              0};
  if (f.table_count || !s.sign || s.least || s.zero || normal == 0 || s.breakpoint == 0 ||
      s.bound == 0 || s.negative_bound == 0 || (stochastic && ~s.random_mask))
    return found;
  const bool symmetric = s.bound == s.negative_bound, saturating = saturates(f, infinities);
  constexpr uint32_t finer = (1u << (Single::mantissa - C::mantissa)) - 1;  // bits that C lacks
  if ((end | (saturating ? 0 : s.above)) & finer) return found;
  const bool one_end = symmetric && s.above == s.below && s.positive_infinity == s.above &&
                       (s.negative_infinity & (sign - 1)) == s.above;
  if (!saturating && !one_end) return found;
  if (s.breakpoint == 1 && symmetric) {
    found.way = Way::bits;
    found.magic = normal;
    if (saturating) found.beyond = s.bound;
    return found;
  }
  if (s.ulp_exponent == 0) return found;
  // Exponent fields: of M below the breakpoint, of the greatest magnitude, of M there.
  const uint32_t least = s.ulp_exponent, greatest = greatest_of(s.bound, s.negative_bound) / one;
  uint32_t most = least;
  if (least == s.breakpoint + normal) {
    most = greatest_of(greatest, s.breakpoint) + normal;
  } else if (greatest < s.breakpoint && greatest + 1 < least) {  // below it: one spacing
    found.lowest = Short::one_spacing;
    found.magic = least * one - Short::one_spacing;
  } else {
    return found;
  }
  if (least < 56 || most > 253) return found;
  found.least_power = 56 - int(least);
  found.greatest_power = 253 - int(most);
  if (C::bias < Single::bias) {  // what is rounded is a number of C, too
    if (normal < uint32_t(Single::mantissa - C::mantissa)) return found;
    const int top = greatest_of(f.max_exponent, f.min_exponent);
    found.least_power = greatest_of(found.least_power, C::least_exponent - f.ulp_exponent);
    found.greatest_power = least_of(found.greatest_power, C::bias - top);
    if (found.least_power > 0 || found.greatest_power < 0) return found;
  }
  if (!saturating) {
    const float spacing = bits_as<float>((most - 23) * one);
    found.limit = found.negative_limit = bits_as<uint32_t>(add(bits_as<float>(s.bound), spacing));
  }
  found.way = saturating ? Way::saturating : Way::regular;
  return found;
}

/// A number rounded by such a sequence.
template <Way way, bool stochastic>
QS_DEVICE uint32_t round_shortly(uint32_t raw, uint32_t word, const Short& s) {
  const uint32_t magnitude = raw & (Single::sign - 1);
  uint32_t r;
  if (way == Way::bits) {
    const uint32_t added = stochastic ? word >> (32 - s.magic)
                                      : (1u << (s.magic - 1)) - 1 + (magnitude >> s.magic & 1);
    r = (magnitude + added) & (~0u << s.magic);
  } else {
    const uint32_t limit = int32_t(raw) < 0 ? s.negative_limit : s.limit;
    const uint32_t cut = least_of(magnitude, limit);
    const uint32_t field = greatest_of(cut & Single::infinity, s.lowest) + s.magic;
    const float m = bits_as<float>(cut), large = bits_as<float>(field);
    if (stochastic) {
      const float below = subtract(add_toward_zero(m, large), large);
      const float scale = bits_as<float>((309u << 23) - field);  // 2^32 / 2^q
      const uint32_t fraction = floor_of(multiply(subtract(m, below), scale));
      const float up = bits_as<float>(field - (23u << 23));
      r = bits_as<uint32_t>(fraction + word < word ? add(below, up) : below);
    } else {
      r = bits_as<uint32_t>(subtract(add(m, large), large));
    }
  }
  if (way != Way::saturating) r = r > s.bound ? s.beyond : r;
  r |= raw & Single::sign;
  r = bits_as<uint32_t>(add(bits_as<float>(r), bits_as<float>(s.zero)));
  return magnitude > Single::infinity ? raw : r;
}

/// The same of an element of C.
template <class C, Way way, bool stochastic>
QS_DEVICE typename C::Word round_in_float32(typename C::Word raw, typename C::Word word,
                                            const Short& s) {
  if constexpr (C::bias == Single::bias) {
    constexpr int up = 32 - C::storage;
    return round_shortly<way, stochastic>(uint32_t(raw) << up, uint32_t(word), s) >> up;
  } else if constexpr (C::storage == 16) {
    const uint32_t rounded = round_shortly<way, stochastic>(widened<C>(raw), uint32_t(word), s);
    return (raw & (C::sign - 1)) > C::infinity ? raw : narrowed<C>(rounded);
  } else {
    return raw;  // never called, but compiled
  }
}

QS_END
