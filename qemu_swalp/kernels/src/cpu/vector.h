// Vectors of lanes on a CPU, by the compiler's vector extension: as wide as the instruction set of
// this compilation.
#pragma once
#include "common/dtype.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

QS_BEGIN

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

typedef uint32_t Vector32 __attribute__((vector_size(vector_bytes)));
typedef int32_t SignedVector32 __attribute__((vector_size(vector_bytes)));
typedef uint64_t Vector64 __attribute__((vector_size(vector_bytes)));
typedef int64_t SignedVector64 __attribute__((vector_size(vector_bytes)));

template <>
struct Kind<Vector32> {
  using Word = uint32_t;
  using Signed = SignedVector32;
  using Mask = SignedVector32;
};
template <>
struct Kind<Vector64> {
  using Word = uint64_t;
  using Signed = SignedVector64;
  using Mask = SignedVector64;
};

/// The vector of a lane.
template <class Word>
struct VectorOf;
template <>
struct VectorOf<uint32_t> {
  using Type = Vector32;
};
template <>
struct VectorOf<uint64_t> {
  using Type = Vector64;
};

typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef double Doubles __attribute__((vector_size(vector_bytes)));

// The exponent of what a float holds exactly.
template <>
inline Vector32 leads(Vector32 n) {
  const Vector32 bits = Vector32(__builtin_convertvector(SignedVector32(n), Floats));
  return (bits >> Single::mantissa) - uint32_t(Single::bias);
}
template <>
inline Vector64 leads(Vector64 n) {
  const Vector64 bits = Vector64(__builtin_convertvector(SignedVector64(n), Doubles));
  return (bits >> Double::mantissa) - uint64_t(Double::bias);
}

/// All lanes of a vector.
template <int count>
struct Whole {
  QS_INLINE constexpr operator size_t() const { return count; }
};

/// The lowest bits, 1 to 64 of them.
QS_INLINE uint64_t lane_mask(size_t bits) { return ~uint64_t(0) >> (64 - bits); }

/// The first `bytes` of a vector from memory, the others 0.
template <class T, int count>
QS_INLINE T load_bytes(const void* from, Whole<count>) {
  T x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
template <class T>
QS_INLINE T load_bytes(const void* from, size_t bytes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 64) return T(_mm512_maskz_loadu_epi8(lane_mask(bytes), from));
  if constexpr (sizeof(T) == 32)
    return T(_mm256_maskz_loadu_epi8(uint32_t(lane_mask(bytes)), from));
  if constexpr (sizeof(T) == 16) return T(_mm_maskz_loadu_epi8(uint16_t(lane_mask(bytes)), from));
#endif
  T x{};
  __builtin_memcpy(&x, from, bytes);
  return x;
}

/// And to memory.
template <class T, int count>
QS_INLINE void store_bytes(void* to, T x, Whole<count>) {
  __builtin_memcpy(to, &x, sizeof x);
}
template <class T>
QS_INLINE void store_bytes(void* to, T x, size_t bytes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 64) return _mm512_mask_storeu_epi8(to, lane_mask(bytes), __m512i(x));
  if constexpr (sizeof(T) == 32)
    return _mm256_mask_storeu_epi8(to, uint32_t(lane_mask(bytes)), __m256i(x));
  if constexpr (sizeof(T) == 16)
    return _mm_mask_storeu_epi8(to, uint16_t(lane_mask(bytes)), __m128i(x));
#endif
  __builtin_memcpy(to, &x, bytes);
}

/// Integers in lanes of another width. Of the widest vectors GCC would convert each half apart.
template <class To, class From>
QS_INLINE To in_lanes(From x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(To) == 64 && sizeof(From) == 32) {
    if constexpr (sizeof(x[0]) == 2) return To(_mm512_cvtepu16_epi32(__m256i(x)));
    if constexpr (sizeof(x[0]) == 4) return To(_mm512_cvtepu32_epi64(__m256i(x)));
  } else if constexpr (sizeof(To) == 32 && sizeof(From) == 64) {
    return To(_mm512_cvtepi32_epi16(__m512i(x)));
  }
#endif
  return __builtin_convertvector(x, To);
}

/// Bytes of some lanes: as many as a vector has, or fewer.
template <class Lane, int count>
QS_INLINE constexpr Whole<count* int(sizeof(Lane))> bytes_of(Whole<count>) {
  return {};
}
template <class Lane>
QS_INLINE constexpr size_t bytes_of(size_t count) {
  return count * sizeof(Lane);
}

/// The lanes of x at the given indices.
template <class V>
QS_INLINE V turned(V x, V from) {
#if defined(__clang__)
  V y;
  for (size_t i = 0; i < sizeof(V) / sizeof(word_of<V>); ++i) y[i] = x[from[i]];
  return y;
#else
  return __builtin_shuffle(x, from);
#endif
}

/// The lanes of x, then of y, at the given indices.
template <class V>
QS_INLINE V turned(V x, V y, V from) {
#if defined(__clang__)
  constexpr word_of<V> count = sizeof(V) / sizeof(word_of<V>);
  V z;
  for (size_t i = 0; i < count; ++i) z[i] = from[i] < count ? x[from[i]] : y[from[i] - count];
  return z;
#else
  return __builtin_shuffle(x, y, from);
#endif
}

/// The greatest lane, all of them below 2^(width - 1); `step`: half of how many are left to look
/// at.
template <class V, int step = sizeof(V) / sizeof(word_of<V>) / 2>
inline word_of<V> greatest_lane(V x) {
  constexpr int count = sizeof(V) / sizeof(word_of<V>);
#if defined(__clang__)
  V other;
  for (int i = 0; i < count; ++i) other[i] = x[(i + step) % count];
#else
  typename Kind<V>::Signed turned;
  for (int i = 0; i < count; ++i) turned[i] = (i + step) % count;
  const V other = __builtin_shuffle(x, turned);
#endif
  const V greatest = greater<V>(x, other);
  if constexpr (step > 1) return greatest_lane<V, step / 2>(greatest);
  return greatest[0];
}

/// Whether the mask holds in any lane.
template <class V>
inline bool any(mask_of<V> mask) {
  const Vector64 bits = Vector64(mask);
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask(__m512i(bits), __m512i(bits)) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256(__m256i(bits), __m256i(bits));
#endif
  uint64_t all = 0;
  for (int i = 0; i < vector_bytes / 8; ++i) all |= bits[i];
  return all != 0;
}

QS_END
