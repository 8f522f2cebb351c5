// Products of elements and scales on a CPU, rounded once to a source dtype (SRC-3).
#pragma once
#include "cpu/floats.h"

QS_BEGIN

/// The greatest finite number of C as bits of the dtype that is computed in.
template <class C>
constexpr typename C::Word greatest_in_single =
    (typename C::Word(C::infinity - 1) << (Computing<C>::mantissa - C::mantissa)) +
    (typename C::Word(Computing<C>::bias - C::bias) << Computing<C>::mantissa);

/// s·|r| to nearest, or to odd where C has fewer bits and the rule no float32 in between.
template <class C, class Vector>
inline Vector product_to_odd(Vector size, FloatsOf<Computing<C>> s, bool by_float32) {
  using B = Computing<C>;
  const FloatsOf<B> nearest = FloatsOf<B>(size) * s;
  Vector product = Vector(nearest);
  if constexpr (C::mantissa < B::mantissa) {
    if (!by_float32) {
      const Floats rest = residual(nearest, Floats(size), s);
      product = select<Vector>(rest > Floats(), product - 1, product);
      product = select<Vector>(rest != Floats(), product | 1, product);
    }
  }
  return product;
}

/// |number| to nearest even in a dtype of 16 bits: bits of the latter, of float32 bits that are at
/// most its greatest number.
template <class C>
inline Vector32 nearest_in(Vector32 number) {
  if constexpr (std::is_same_v<C, BFloat>) {  // the leading half of float32
    return (number + 0x7FFFu + ((number >> 16) & 1)) >> 16;
  }
#if defined(__AVX512F__)
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return Vector32(_mm512_cvtepu16_epi32(_mm512_cvtps_ph(__m512(number), mode)));
#else
  Constants<Single> target{};
  target.breakpoint = uint32_t(Single::bias + 1 - C::bias);
  target.ulp_exponent = uint32_t(C::least_exponent - Single::least_exponent + 1);
  target.normal = Single::mantissa - C::mantissa;
  target.tiny = join<Single>({C::least_exponent, Single::hidden});
  return narrowed<C>(rounded<Single, Shape::regular>(Known<Mode::nearest_even>(), number,
                                                     Vector32(), target, Element(), 0));
#endif
}

/// s·r for rounded r, bits with the sign, rounded to C; at most its greatest finite number. Before
/// that it is rounded to odd, or to nearest where the rule has float32 in between.
template <class C, class Vector>
inline Vector multiplied(Vector element, FloatsOf<Computing<C>> s, bool by_float32) {
  using B = Computing<C>;
  const Vector none{}, size = element & (B::sign - 1);
  Vector product = product_to_odd<C>(size, s, by_float32);
  if constexpr (C::mantissa < B::mantissa) {
    product = lesser<Vector>(product, none + greatest_in_single<C>);
    product = widened<C>(nearest_in<C>(product));
  }
  const auto finite = signed_of(size) < signed_of(none + B::infinity);
  return select<Vector>(
      finite, lesser<Vector>(product, none + greatest_in_single<C>) | (element & B::sign), element);
}

/// `multiplied` as bits of C.
template <class C, class Vector>
inline Vector stored_product(Vector element, FloatsOf<Computing<C>> s, bool by_float32) {
  using B = Computing<C>;
  if constexpr (std::is_same_v<C, B>) {
    return multiplied<C>(element, s, by_float32);
  } else {
    const Vector none{}, size = element & (B::sign - 1);
    const Vector product =
        lesser<Vector>(product_to_odd<C>(size, s, by_float32), none + greatest_in_single<C>);
    const Vector special =
        ((size >> (B::mantissa - C::mantissa)) & ((1u << C::mantissa) - 1)) | C::infinity;
    const auto finite = signed_of(size) < signed_of(none + B::infinity);
    return select<Vector>(finite, nearest_in<C>(product), special) |
           (element & B::sign) >> (B::storage - C::storage);
  }
}

/// s·|r| as bits of C, for rounded numbers r that are finite. exact: whether C holds all products.
template <class C, bool exact, class Vector>
QS_INLINE Vector stored_magnitude(Vector size, FloatsOf<Computing<C>> s) {
  using B = Computing<C>;
  if constexpr (exact && !std::is_same_v<C, B>) {
    const Vector product = Vector(Floats(size) * s);
    if constexpr (std::is_same_v<C, BFloat>) return product >> 16;
    return nearest_in<C>(product);
  }
  const Vector product =
      lesser<Vector>(product_to_odd<C>(size, s, false), Vector() + greatest_in_single<C>);
  if constexpr (std::is_same_v<C, B>) {
    return product;
  } else {
    return nearest_in<C>(product);
  }
}

QS_END
