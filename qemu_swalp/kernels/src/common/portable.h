// What host and device compilers spell differently.
#pragma once
#if defined(__CUDACC_RTC__)
using int32_t = int;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#include <cstring>
#endif

// Instruction sets are compiled apart: the same names, but each in a namespace of its own, or the
// linker would take one for the other.
#ifndef QS_VARIANT
#define QS_VARIANT common
#endif
#define QS_BEGIN         \
  namespace qemu_swalp { \
  inline namespace QS_VARIANT {
#define QS_END \
  }            \
  }

// QS_INLINE is for what runs for each element of a vector loop, where a call would cost more than
// the work; QS_INLINE_LAMBDA, after its parameters, for a lambda on a CPU.
#if defined(__CUDACC__)
#define QS_FUNCTION __host__ __device__ inline
#define QS_INLINE __host__ __device__ __forceinline__
#else
#define QS_FUNCTION inline
#define QS_INLINE_LAMBDA __attribute__((always_inline))
#define QS_INLINE inline QS_INLINE_LAMBDA
#endif

QS_BEGIN

using uint128 = unsigned __int128;

QS_FUNCTION int leading_zeros(uint32_t n) {
#if defined(__CUDA_ARCH__)
  return __clz(int(n));
#else
  return __builtin_clz(n);
#endif
}

QS_FUNCTION int leading_zeros(uint64_t n) {
#if defined(__CUDA_ARCH__)
  return __clzll((long long)n);
#else
  return __builtin_clzll(n);
#endif
}

template <class T>
QS_INLINE T least_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
QS_INLINE T greatest_of(T a, T b) {
  return a > b ? a : b;
}

// Arithmetic that is written once for a word and for a vector of words.

/// Word, signed counterpart and mask of V, a word or a vector of words.
template <class V>
struct Kind;
template <>
struct Kind<uint32_t> {
  using Word = uint32_t;
  using Signed = int32_t;
  using Mask = bool;
};
template <>
struct Kind<uint64_t> {
  using Word = uint64_t;
  using Signed = int64_t;
  using Mask = bool;
};

template <class V>
using word_of = typename Kind<V>::Word;
template <class V>
using mask_of = typename Kind<V>::Mask;

template <class V>
QS_INLINE typename Kind<V>::Signed signed_of(V x) {
  return (typename Kind<V>::Signed)x;
}

/// a where the mask holds, else b.
template <class V>
QS_INLINE V select(mask_of<V> mask, V a, V b) {
  return mask ? a : b;
}

/// The lesser and the greater of signed words, as compilers know them: one instruction.
template <class V>
QS_INLINE V lesser(V a, V b) {
  const auto x = signed_of(a), y = signed_of(b);
  return V(x < y ? x : y);
}
template <class V>
QS_INLINE V greater(V a, V b) {
  const auto x = signed_of(a), y = signed_of(b);
  return V(x > y ? x : y);
}

/// 1 where the mask holds, else 0.
template <class V>
QS_INLINE V one_where(mask_of<V> mask) {
  return select<V>(mask, V() + 1, V());
}

QS_END
