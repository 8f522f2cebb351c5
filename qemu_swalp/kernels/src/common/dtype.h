// Source dtypes taken apart into integers and put together again (clause SRC-1); the C++ of
// `arrays/dtypes.py`.
#pragma once
#include "common/portable.h"

QS_BEGIN

/// Layout of a source dtype. Word: unsigned integers that it is computed in. Wide: twice as many
/// bits.
template <class StoredType, class WordType, class WideType, int MantissaBits, int ExponentBias>
struct SourceDtype {
  using Stored = StoredType;
  using Word = WordType;
  using Wide = WideType;
  static constexpr int mantissa = MantissaBits, bias = ExponentBias;
  static constexpr int storage = 8 * sizeof(Stored), width = 8 * sizeof(Word);
  /// Mantissa bits of the float32 or float64 in which integers of `width` are normalized.
  static constexpr int significand = width == 32 ? 23 : 52;
  static constexpr int least_exponent = 1 - bias - mantissa;
  static constexpr Word sign = Word(1) << (storage - 1);
  static constexpr Word infinity = sign - (Word(1) << mantissa);
  static constexpr Word nan = infinity + (Word(1) << (mantissa - 1));
  static constexpr Word hidden = Word(1) << significand;
};

using Half = SourceDtype<uint16_t, uint32_t, uint64_t, 10, 15>;
using BFloat = SourceDtype<uint16_t, uint32_t, uint64_t, 7, 127>;
using Single = SourceDtype<uint32_t, uint32_t, uint64_t, 23, 127>;
using Double = SourceDtype<uint64_t, uint64_t, uint128, 52, 1023>;

/// A positive number: significand·2^(exponent - C::significand), the hidden bit set. Zero:
/// significand 0.
template <class C>
struct Number {
  int exponent;
  typename C::Word significand;
};

/// Binade of an integer n > 0.
QS_FUNCTION int lead(uint32_t n) { return 31 - leading_zeros(n); }
QS_FUNCTION int lead(uint64_t n) { return 63 - leading_zeros(n); }
QS_FUNCTION int lead(uint128 n) {
  return n >> 64 ? 64 + lead(uint64_t(n >> 64)) : lead(uint64_t(n));
}

/// Binades of integers n > 0 of at most C::significand + 1 bits. V: words.
template <class V>
QS_FUNCTION V leads(V n) {
  return V(lead(n));
}

/// sig·2^ulp as a number; sig of at most C::significand + 1 bits, or a multiple of a power of two
/// that leaves no more.
template <class C>
QS_FUNCTION Number<C> number(typename C::Word sig, int ulp) {
  if (sig == 0) return {0, 0};
  const int e = lead(sig), up = C::significand - e;
  return {e + ulp, up >= 0 ? sig << up : sig >> -up};
}

/// The number with these magnitude bits, which are not those of infinity or NaN.
template <class C>
QS_FUNCTION Number<C> number_of_bits(typename C::Word magnitude) {
  const auto field = magnitude >> C::mantissa;
  const auto base = (field > 1 ? field - 1 : 0) << C::mantissa;
  return number<C>(magnitude - base, int(field > 1 ? field : 1) + C::least_exponent - 1);
}

/// Magnitude bits of numbers of one significand, not 0, cut toward zero to the dtype: at most its
/// greatest number (clause SRC-2). V: words, of signed exponents.
template <class C, class V>
QS_FUNCTION V joined(V exponent, typename C::Word significand) {
  using Word = typename C::Word;
  const V none{}, field = exponent + Word(C::bias);
  const V normal =
      ((field - 1) << C::mantissa) + Word(significand >> (C::significand - C::mantissa));
  const V down = none + Word(C::significand - C::mantissa + 1) - lesser<V>(field, none);
  const V subnormal = (none + significand) >> lesser<V>(down, none + Word(C::width - 1));
  const V bits = select<V>(signed_of(field) > signed_of(none), normal, subnormal);
  const V infinite = none + Word(2 * C::bias + 1);
  return select<V>(signed_of(field) < signed_of(infinite), bits, none + (C::infinity - 1));
}

/// Magnitude bits of a number, cut toward zero to the dtype; infinity beyond its binades.
template <class C>
QS_FUNCTION typename C::Word join(Number<C> x) {
  using Word = typename C::Word;
  if (x.significand == 0) return 0;
  return x.exponent > C::bias ? C::infinity : joined<C, Word>(Word(x.exponent), x.significand);
}

/// Magnitude bits of sig·2^ulp rounded to nearest even; infinity beyond the range. `more`: whether
/// something less than one unit of sig is left of the number.
template <class C, class Integer>
QS_FUNCTION typename C::Word pack(Integer sig, int ulp, bool more = false) {
  using Word = typename C::Word;
  if (sig == 0) return 0;
  const int e = lead(sig) + ulp;
  const int q = e - C::mantissa > C::least_exponent ? e - C::mantissa : C::least_exponent;
  const int shift = q - ulp;
  Word n;
  if (shift <= 0) {
    n = Word(sig) << -shift;
  } else if (shift > 8 * int(sizeof(Integer))) {
    n = 0;
  } else {
    const Integer half = Integer(1) << (shift - 1), below = sig & (half - 1);
    n = shift == 8 * int(sizeof(Integer)) ? 0 : Word(sig >> shift);
    n += (sig & half) && (below || more || (n & 1));
  }
  // n holds the hidden bit of a normal number, so this is right for subnormals and after a carry
  // too.
  const int field = q - C::least_exponent;
  return field >= 2 * C::bias ? C::infinity : (Word(field) << C::mantissa) + n;
}

QS_END
