// Runs of elements under scales that are no powers of two, in vectors of float32, which holds
// float16 and bfloat16 as well; `round_scaled` is what they equal.
//
// Here floats are multiplied and divided, each operation rounded once to nearest even with
// subnormals kept, which `StandardFloats` sees to.
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
  if (shape_of<Single>(scale, 0, true) != Shape::any) {
    return round_element<Single, Shape::regular>(Known<Mode::nearest_even>(), magnitude, Vector32(),
                                                 constants_of<Single>(scale, 0), scale, 0);
  }
  for (int i = 0; i < vector_bytes / 4; ++i)
    magnitude[i] = in_format<uint32_t>(magnitude[i], scale);
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
  for (int i = 0; i < vector_bytes / 4; ++i)
    rest[i] = float(double(x[i]) - double(q[i]) * double(s[i]));
  return rest;
#endif
}

/// Bits of x/s ≥ 0 rounded to odd: cut, and the last bit set where anything was cut off.
///
/// q is x/s to nearest. |x - q·s| is at most half a unit of q times s, and a multiple of a unit of
/// q times a unit of s: 24 bits, so it is a float32 unless it is less than one can be, and its sign
/// tells on which side of q x/s lies.
inline Vector32 quotient_to_odd(Floats x, Floats s) {
  const Floats q = x / s, rest = residual(x, q, s);
  const Vector32 cut = Vector32(q) + Vector32(SignedVector32(rest) >> 31);
  return cut | one_where<Vector32>(rest != Floats());
}

/// 2^e.
inline Floats power_of_two(int e) {
  return Floats(Vector32() + (uint32_t(e + Single::bias) << Single::mantissa));
}

/// Elements of C as float32, bits to bits.
template <class C>
inline Vector32 widened(Vector32 raw) {
  if constexpr (C::storage == 32) return raw;
  const Vector32 none{}, magnitude = raw & (C::sign - 1),
                         bits = magnitude << (Single::mantissa - C::mantissa);
  const Vector32 number = Vector32(Floats(bits) * power_of_two(Single::bias - C::bias));
  const auto finite = signed_of(magnitude) < signed_of(none + C::infinity);
  return select<Vector32>(finite, number, bits | Single::infinity) |
         (raw & C::sign) << (Single::storage - C::storage);
}

/// And back, of those that C holds.
template <class C>
inline Vector32 narrowed(Vector32 raw) {
  if constexpr (C::storage == 32) return raw;
  constexpr int down = Single::mantissa - C::mantissa;
  const Vector32 none{}, magnitude = raw & (Single::sign - 1);
  const Vector32 number =
      Vector32(Floats(magnitude) * power_of_two(C::bias - Single::bias)) >> down;
  const Vector32 special = ((magnitude >> down) & ((1u << C::mantissa) - 1)) | C::infinity;
  const auto finite = signed_of(magnitude) < signed_of(none + Single::infinity);
  return select<Vector32>(finite, number, special) |
         (raw & Single::sign) >> (Single::storage - C::storage);
}

/// s·r for rounded r, float32 bits with the sign, rounded to C; at most its greatest finite number.
/// Before that it is rounded to odd, or to nearest where the rule has float32 in between.
template <class C>
inline Vector32 multiplied(Vector32 element, Floats s, bool by_float32) {
  constexpr int down = Single::mantissa - C::mantissa;
  constexpr uint32_t largest =
      ((C::infinity - 1) << down) + (uint32_t(Single::bias - C::bias) << Single::mantissa);
  const Vector32 none{}, size = element & (Single::sign - 1);
  const Floats nearest = Floats(size) * s;
  Vector32 product = Vector32(nearest);
  if constexpr (down > 0) {
    if (!by_float32) {
      const Floats rest = residual(nearest, Floats(size), s);
      product =
          (product - one_where<Vector32>(rest > Floats())) | one_where<Vector32>(rest != Floats());
    }
    Constants<Single> target{};
    target.breakpoint = uint32_t(Single::bias + 1 - C::bias);
    target.ulp_exponent = uint32_t(C::least_exponent - Single::least_exponent + 1);
    target.normal = down;
    target.tiny = join<Single>({C::least_exponent, Single::hidden});
    product = rounded<Single, Shape::regular>(Known<Mode::nearest_even>(), product, none, target,
                                              Element(), 0);
  }
  const auto finite = signed_of(size) < signed_of(none + Single::infinity);
  return select<Vector32>(
      finite, lesser<Vector32>(product, none + largest) | (element & Single::sign), element);
}

/// The vendor rules: |x|⊗i rounded, then times s. Constants and element here and below: those of
/// float32.
template <class C, Shape shape, class M>
QS_INLINE void round_vendor_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                                int64_t n, const uint32_t* words, const Number<Single>& number,
                                uint32_t inverse_bits, const Constants<Single>& given,
                                const Element& f) {
  using V = Vectors<C>;
  using Vector = Vector32;
  const Vector none{};
  const Constants<Single> s = given;
  const Floats inverse = Floats(none + inverse_bits), factor = Floats(none + join<Single>(number));
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = widened<C>(V::load(from + i, count)), magnitude = raw & (Single::sign - 1);
    const Vector scaled =
        select<Vector>(magnitude == none, none, Vector(Floats(magnitude) * inverse));
    const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
    const Vector r =
        rounded<Single, Shape::regular>(mode, scaled | (raw & Single::sign), word, s, f, 0);
    const Vector finite_r = lesser<Vector>(r, none + largest32);
    const Vector product = multiplied<C>(checked<Single, shape>(raw, finite_r, s), factor, true);
    V::store(to + i, narrowed<C>(product), count);
  });
}

/// Whether `round_quotient_run` takes elements of a format.
inline bool takes_quotients(const Element& f) {
  return shape_of<Single>(f, 0, true) != Shape::any && f.fraction <= 21 &&
         f.least_exponent >= -45 && greatest_of(f.max_exponent, f.min_exponent) < 127;
}

/// Whether it takes a scale: one that float32 holds.
inline bool takes_scale(const Number<Single>& s) {
  const Number<Single> rounded_scale = number_of_bits<Single>(join<Single>(s));
  return rounded_scale.exponent == s.exponent && rounded_scale.significand == s.significand;
}

/// The constants of elements with a zero point: bounds that come with the scale.
inline Constants<Single> with_zero_point(Constants<Single> s, const Element& f,
                                         uint32_t zero_point) {
  const uint32_t most = integer_of<Single>({f.max_exponent, uint32_t(f.max_significand)});
  s.bound = join<Single>(number<Single>(most - zero_point, 0));
  s.negative_bound = join<Single>(number<Single>(zero_point, 0));
  return s;
}

/// The other rules: x/s rounded, then times s. `slow(i)`: element i by `round_scaled`.
///
/// Rounding x/s to odd at 24 bits first changes no deterministic mode: at up to 22 bits of the
/// element's (`fraction` is one less) the bounds between results are even. A stochastic mode has
/// finer bounds: there both even neighbours are rounded, between which x/s lies, or which it is.
/// Rounding with a given word is monotone, so if they agree, that is the result; else the element
/// goes by `round_scaled`.
///
/// Below 2^-34 of the least positive value no mode sees more than that x/s is not zero, which an
/// odd quotient never is. From there on the residual has no bit below 2^-149: q ≥ 2^-79 has units
/// of 2^-102, and scales below 1 are lifted, with x, by a power of two that leaves s at least
/// 2^-22, in units of 2^-45, and less than 2. Where that lifts x to infinity, x/s is at least
/// 2^127, beyond the range, and so is whatever comes of it.
///
/// Matmul are multiples of 2^-45 times a unit of s: their residual has no bit below 2^-149 either
/// where s is at least 2^-81. For smaller s an element of float16 or bfloat16 that is not zero goes
/// by `round_scaled`.
template <class C, Shape shape, class M, class Slow>
QS_INLINE void round_quotient_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                                  int64_t n, const uint32_t* words, const Number<Single>& number,
                                  const Constants<Single>& given, const Element& f, Slow slow) {
  using V = Vectors<C>;
  using Vector = Vector32;
  const Vector none{};
  const Constants<Single> s = given;
  const int up = greatest_of(0, least_of(127, -number.exponent));
  const Floats lift = power_of_two(up), factor = Floats(none + join<Single>(number));
  const Floats divisor = Floats(none + join<Single>({number.exponent + up, number.significand}));
  const bool faint = C::mantissa < Single::mantissa && number.exponent < -81;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = widened<C>(V::load(from + i, count)), sign = raw & Single::sign,
                 magnitude = raw ^ sign;
    const Vector quotient = quotient_to_odd(Floats(magnitude) * lift, divisor);
    const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
    const Vector doubt = is_stochastic(mode) ? quotient & 1 : none;
    const Vector r =
        rounded<Single, Shape::regular>(mode, (quotient - doubt) | sign, word, s, f, 0);
    bool sure = !faint || !any<Vector>(magnitude != none);
    if (is_stochastic(mode)) {
      sure &= !any<Vector>(
          r != rounded<Single, Shape::regular>(mode, (quotient + doubt) | sign, word, s, f, 0));
    }
    if (!sure) {
      for (int64_t j = i; j < i + int64_t(size_t(count)); ++j) to[j] = slow(j);
      return;
    }
    V::store(to + i, narrowed<C>(multiplied<C>(checked<Single, shape>(raw, r, s), factor, false)),
             count);
  });
}

QS_END
