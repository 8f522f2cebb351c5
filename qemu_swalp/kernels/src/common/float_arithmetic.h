// float32 and float64 arithmetic of which each product, sum and difference is rounded by itself:
// never contracted, and subnormals kept.
#pragma once
#include "common/portable.h"

QS_BEGIN

/// The float of which these are the bits.
template <class Stored>
struct FloatOf;
template <>
struct FloatOf<uint32_t> {
  using Type = float;
};
template <>
struct FloatOf<uint64_t> {
  using Type = double;
};

/// The same bits in another type.
template <class To, class From>
QS_INLINE To bits_as(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

#if defined(__CUDA_ARCH__)  // whatever the compiler is told of contraction and of subnormals
QS_INLINE float multiply(float a, float b) {
  asm("mul.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE float add(float a, float b) {
  asm("add.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE float subtract(float a, float b) {
  asm("sub.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE float divide(float a, float b) {
  float quotient;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
  return quotient;
}
QS_INLINE void convert(float from, double& to) {
  asm("cvt.f64.f32 %0, %1;" : "=d"(to) : "f"(from));
}
QS_INLINE void convert(double from, float& to) {
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(to) : "d"(from));
}
QS_INLINE double multiply(double a, double b) { return __dmul_rn(a, b); }
QS_INLINE double add(double a, double b) { return __dadd_rn(a, b); }
QS_INLINE double subtract(double a, double b) { return __dsub_rn(a, b); }
#else  // compiled without contraction
QS_INLINE float divide(float a, float b) { return a / b; }
QS_INLINE void convert(float from, double& to) { to = from; }
QS_INLINE void convert(double from, float& to) { to = float(from); }
template <class Float>
QS_INLINE Float multiply(Float a, Float b) {
  return a * b;
}
template <class Float>
QS_INLINE Float add(Float a, Float b) {
  return a + b;
}
template <class Float>
QS_INLINE Float subtract(Float a, Float b) {
  return a - b;
}
#endif

QS_INLINE void convert(float from, float& to) { to = from; }
QS_INLINE void convert(double from, double& to) { to = from; }

/// The number in the dtype of the arithmetic.
template <class Float>
QS_INLINE Float converted(double from) {
  Float to;
  convert(from, to);
  return to;
}

/// By the sign bit: an operator would flush subnormals where the compiler is told to.
QS_INLINE float negated(float a) { return bits_as<float>(bits_as<uint32_t>(a) ^ 0x80000000u); }
QS_INLINE double negated(double a) {
  return bits_as<double>(bits_as<uint64_t>(a) ^ 0x8000000000000000ull);
}

QS_END
