// Floats on a CPU, in vectors of float32, which holds float16 and bfloat16 as well, or of float64.
//
// They are multiplied and divided, each operation rounded once to nearest even with subnormals
// kept, which `StandardFloats` sees to.
#pragma once
#include <type_traits>

#include "cpu/rows.h"
#include "cpu/standard_floats.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

QS_BEGIN

/// The dtype in whose arithmetic elements of C are computed.
template <class C>
using Computing = std::conditional_t<C::width == 32, Single, Double>;

template <class B>
using FloatsOf = std::conditional_t<B::width == 32, Floats, Doubles>;
template <class B>
using VectorIn = typename VectorOf<typename B::Word>::Type;

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

inline Doubles residual(Doubles x, Doubles q, Doubles s) {
#if defined(__AVX512F__)
  return Doubles(_mm512_fnmadd_pd(__m512d(q), __m512d(s), __m512d(x)));
#elif defined(__FMA__)
  return Doubles(_mm256_fnmadd_pd(__m256d(q), __m256d(s), __m256d(x)));
#elif defined(__aarch64__)
  return Doubles(vfmsq_f64(float64x2_t(x), float64x2_t(q), float64x2_t(s)));
#else
  Doubles rest;
  for (int i = 0; i < vector_bytes / 8; ++i) rest[i] = __builtin_fma(-q[i], s[i], x[i]);
  return rest;
#endif
}

/// Bits of x/s ≥ 0 rounded to odd: cut, and the last bit set where anything was cut off.
///
/// q is x/s to nearest. |x - q·s| is at most half a unit of q times s, and a multiple of a unit of
/// q times a unit of s: as many bits as a significand, so it is a float unless it is less than one
/// can be, and its sign tells on which side of q x/s lies. One that is rounded to zero keeps it: a
/// quotient below q is odd then too, and none that is not zero becomes it.
template <class B>
inline VectorIn<B> quotient_to_odd(FloatsOf<B> x, FloatsOf<B> s) {
  using Vector = VectorIn<B>;
  const FloatsOf<B> q = x / s, rest = residual(x, q, s);
  const Vector cut = Vector(q) + Vector(signed_of(Vector(rest)) >> (B::width - 1));
  return cut | one_where<Vector>(Vector(rest) != Vector());
}

/// The same cut toward zero. Where the residual is less than a float can be, its
/// sign is kept.
template <class B>
inline VectorIn<B> quotient_cut(FloatsOf<B> x, FloatsOf<B> s) {
  using Vector = VectorIn<B>;
  const FloatsOf<B> q = x / s, rest = residual(x, q, s);
  return Vector(q) + Vector(signed_of(Vector(rest)) >> (B::width - 1));
}

/// 2^e.
inline Floats power_of_two(int e) {
  return Floats(Vector32() + (uint32_t(e + Single::bias) << Single::mantissa));
}

/// Elements of C in the bits of the dtype that they are computed in.
template <class C, class Vector>
inline Vector widened(Vector raw) {
  if constexpr (std::is_same_v<C, Computing<C>>) {
    return raw;
  } else if constexpr (std::is_same_v<C, BFloat>) {
    return raw << 16;
  } else {
    const Vector none{}, magnitude = raw & (C::sign - 1),
                         bits = magnitude << (Single::mantissa - C::mantissa);
    const Vector number = Vector(Floats(bits) * power_of_two(Single::bias - C::bias));
    const auto finite = signed_of(magnitude) < signed_of(none + C::infinity);
    return select<Vector>(finite, number, bits | Single::infinity) |
           (raw & C::sign) << (Single::storage - C::storage);
  }
}

/// And back, of those that C holds.
template <class C, class Vector>
inline Vector narrowed(Vector raw) {
  if constexpr (std::is_same_v<C, Computing<C>>) {
    return raw;
  } else if constexpr (std::is_same_v<C, BFloat>) {
    return raw >> 16;
  } else {
    constexpr int down = Single::mantissa - C::mantissa;
    const Vector none{}, magnitude = raw & (Single::sign - 1);
    const Vector number = Vector(Floats(magnitude) * power_of_two(C::bias - Single::bias)) >> down;
    const Vector special = ((magnitude >> down) & ((1u << C::mantissa) - 1)) | C::infinity;
    const auto finite = signed_of(magnitude) < signed_of(none + Single::infinity);
    return select<Vector>(finite, number, special) |
           (raw & Single::sign) >> (Single::storage - C::storage);
  }
}

QS_END
