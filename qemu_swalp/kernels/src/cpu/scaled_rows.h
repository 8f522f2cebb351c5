// Runs of float32 elements under scales that are no powers of two, in vectors; `round_scaled` is what they equal.
//
// Here floats are multiplied and divided, each operation rounded once to nearest even with subnormals kept, which
// `StandardFloats` sees to.
#pragma once
#include "cpu/rows.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

QS_BEGIN

/// Rounding to nearest even, without flushing, as long as it lives.
class StandardFloats {
#if defined(__x86_64__)
 public:
  StandardFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~StandardFloats() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
 public:
  StandardFloats() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
  }
  ~StandardFloats() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

typedef float Floats __attribute__((vector_size(vector_bytes)));

template <>
inline Vector32 multiply32(Vector32 a, Vector32 b) {
  return select<Vector32>((a == 0) | (b == 0), Vector32(), Vector32(Floats(a) * Floats(b)));
}

template <>
inline Vector32 divide32(Vector32 a, Vector32 b) {
  return select<Vector32>(a == 0, Vector32(), Vector32(Floats(a) / Floats(b)));
}

template <>
inline Vector32 in_format(Vector32 magnitude, const Element& scale) {
  if (shape_of<Single>(scale, 0) != Shape::any) {
    return round_element<Single, Shape::regular>(Known<Mode::nearest_even>(), magnitude, Vector32(),
                                                 steps_of<Single>(scale, 0), scale, 0);
  }
  for (int i = 0; i < vector_bytes / 4; ++i) magnitude[i] = in_format<uint32_t>(magnitude[i], scale);
  return magnitude;
}

/// x - q·s, rounded once.
inline Floats residual(Floats x, Floats q, Floats s) {
#if defined(__AVX512F__)
  return Floats(_mm512_fnmadd_ps(__m512(q), __m512(s), __m512(x)));
#elif defined(__FMA__)
  return Floats(_mm256_fnmadd_ps(__m256(q), __m256(s), __m256(x)));
#elif defined(__aarch64__)
  return Floats(vfmsq_f32(float32x4_t(x), float32x4_t(q), float32x4_t(s)));
#else  // q·s has 48 bits, and the difference 24 (`quotient_to_odd`): float64 has both
  Floats rest;
  for (int i = 0; i < vector_bytes / 4; ++i) rest[i] = float(double(x[i]) - double(q[i]) * double(s[i]));
  return rest;
#endif
}

/// Bits of x/s ≥ 0 rounded to odd: cut, and the last bit set where anything was cut off.
///
/// q is x/s to nearest. |x - q·s| is at most half a unit of q times s, and a multiple of a unit of q times a unit of s: 24
/// bits, so it is a float32 unless it is less than one can be, and its sign tells on which side of q the quotient lies.
inline Vector32 quotient_to_odd(Floats x, Floats s) {
  const Floats q = x / s, rest = residual(x, q, s);
  const Vector32 cut = Vector32(q) + Vector32(SignedVector32(rest) >> 31);
  return cut | one_where<Vector32>(rest != Floats());
}

/// s·r for rounded r, bits with the sign; at most the greatest finite number.
inline Vector32 multiplied(Vector32 element, Floats s) {
  const Vector32 none{}, size = element & (Single::sign - 1), product = Vector32(Floats(size) * s);
  const auto finite = signed_of(size) < signed_of(none + Single::infinity);
  return select<Vector32>(finite, lesser<Vector32>(product, none + largest32) | (element & Single::sign), element);
}

/// The published rules: |x|⊗i rounded, then times s.
template <class M>
inline void round_published_run(M mode, const uint32_t* from, uint32_t* to, int64_t n, const uint32_t* words,
                                const Scale<Single>& scale, const Steps<Single>& given, const Element& f) {
  using V = Vectors<Single>;
  using Lanes = V::V;
  const Lanes none{};
  const Steps<Single> s = given;
  const Floats inverse = Floats(none + scale.inverse), factor = Floats(none + join<Single>(scale.number));
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes raw = V::load(from + i, count), magnitude = raw & (Single::sign - 1);
    const Lanes finite = select<Lanes>(signed_of(magnitude) < signed_of(none + Single::infinity), magnitude, none);
    const Lanes scaled = select<Lanes>(finite == none, none, Lanes(Floats(finite) * inverse));
    const Lanes word = is_stochastic(mode) ? V::words(words + i, count) : Lanes();
    const Lanes r = rounded<Single, Shape::regular>(mode, scaled | (raw & Single::sign), word, s, f, 0);
    const Lanes finite_r = lesser<Lanes>(r, none + largest32);
    V::store(to + i, multiplied(checked<Single, Shape::regular>(raw, finite_r, s), factor), count);
  });
}

/// Whether `round_quotient_run` takes elements of a format.
inline bool takes_quotients(const Element& f) {
  return shape_of<Single>(f, 0) != Shape::any && f.fraction <= 21 && f.least_exponent >= -45 &&
         greatest_of(f.max_exponent, f.min_exponent) < 127;
}

/// Whether it takes a scale: one that float32 holds.
inline bool takes_scale(const Number<Single>& s) {
  const Number<Single> held = number_of_bits<Single>(join<Single>(s));
  return held.exponent == s.exponent && held.significand == s.significand;
}

/// The steps of elements with a zero point: bounds that come with the scale.
inline Steps<Single> with_zero_point(Steps<Single> s, const Element& f, uint32_t zero_point) {
  const uint32_t most = integer_of<Single>({f.max_exponent, uint32_t(f.max_significand)});
  s.bound = join<Single>(number<Single>(most - zero_point, 0));
  s.negative_bound = join<Single>(number<Single>(zero_point, 0));
  return s;
}

/// The other rules: x/s rounded, then times s. `slow(i)`: element i by `round_scaled`.
///
/// Rounding x/s to odd at 24 bits first changes no deterministic mode: at up to 22 bits of the element's (`fraction` is one
/// less) the bounds between results are even. A stochastic mode has finer bounds: there both even neighbours are rounded,
/// between which x/s lies, or which it is. Rounding with a given word is monotone, so if they agree, that is the result;
/// else the element goes by `round_scaled`.
///
/// Below 2^-34 of the least positive value no mode sees more than that x/s is not zero, which an odd quotient never is.
/// From there on the residual has no bit below 2^-149: q ≥ 2^-79 has units of 2^-102, and scales below 1 are lifted,
/// with x, by a power of two that leaves s at least 2^-22, in units of 2^-45, and less than 2. Where that lifts x to
/// infinity, x/s is at least 2^127, beyond the range, and so is whatever comes of it.
template <Shape shape, class M, class Slow>
inline void round_quotient_run(M mode, const uint32_t* from, uint32_t* to, int64_t n, const uint32_t* words,
                               const Scale<Single>& scale, const Steps<Single>& given, const Element& f, Slow slow) {
  using V = Vectors<Single>;
  using Lanes = V::V;
  const Lanes none{};
  const Steps<Single> s = given;
  const int up = greatest_of(0, least_of(127, -scale.number.exponent));
  const Floats lift = Floats(none + join<Single>({up, Single::hidden})), factor = Floats(none + join<Single>(scale.number));
  const Floats divisor = Floats(none + join<Single>({scale.number.exponent + up, scale.number.significand}));
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes raw = V::load(from + i, count), sign = raw & Single::sign, magnitude = raw ^ sign;
    const Lanes quotient = quotient_to_odd(Floats(magnitude) * lift, divisor);
    const Lanes word = is_stochastic(mode) ? V::words(words + i, count) : Lanes();
    const Lanes doubt = is_stochastic(mode) ? quotient & 1 : none;
    const Lanes r = rounded<Single, Shape::regular>(mode, (quotient - doubt) | sign, word, s, f, 0);
    if (is_stochastic(mode)) {
      const Lanes other = rounded<Single, Shape::regular>(mode, (quotient + doubt) | sign, word, s, f, 0);
      if (any<Lanes>(r != other)) {
        for (int64_t j = i; j < i + int64_t(size_t(count)); ++j) to[j] = slow(j);
        return;
      }
    }
    V::store(to + i, multiplied(checked<Single, shape>(raw, r, s), factor), count);
  });
}

QS_END
