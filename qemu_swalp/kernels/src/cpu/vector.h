// Vectors of lanes on a CPU, by the compiler's vector extension: as wide as the instruction set of
// this compilation.
#pragma once
#include "common/portable.h"

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
  uint64_t all = 0;
  for (int i = 0; i < vector_bytes / 8; ++i) all |= bits[i];
  return all != 0;
}

QS_END
