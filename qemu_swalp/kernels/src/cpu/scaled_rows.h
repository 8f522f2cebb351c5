// Runs of elements under scales that are no powers of two, in vectors of floats; `round_scaled` is
// what they equal.
#pragma once
#include "cpu/float_products.h"

QS_BEGIN

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

/// Where the scales of elements are, and what else the rule needs of them: float32 bits that the
/// rules with an inverse multiply by, or zero points; for quotients, `quick_inverse` of the scales.
/// A block that is NaN has the scale NaN.
template <class C>
struct ScaleRun {
  static constexpr bool exact = false;  // whether C holds the products of elements and scales
  const typename C::Word *scale, *extra, *inverse;

  template <class N>
  QS_INLINE typename Vectors<C>::V scales(int64_t i, N n) const {
    return Vectors<C>::load_words(scale + i, n);
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V extras(int64_t i, N n) const {
    return Vectors<C>::load_words(extra + i, n);
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V inverses(int64_t i, N n) const {
    return Vectors<C>::load_words(inverse + i, n);
  }
  typename C::Word scale_at(int64_t i) const { return scale[i]; }
  typename C::Word extra_at(int64_t i) const { return extra[i]; }
  /// Of the vector at i.
  ScaleRun at(int64_t i) const { return {scale + i, extra + i, inverse + i}; }
};

/// The same where all elements have one.
template <class C>
struct UniformScale {
  static constexpr bool exact = false;  // whether C holds the products of elements and scales
  typename C::Word scale, extra, inverse;

  template <class N>
  QS_INLINE typename Vectors<C>::V inverses(int64_t, N) const {
    return typename Vectors<C>::V() + inverse;
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V scales(int64_t, N) const {
    return typename Vectors<C>::V() + scale;
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V extras(int64_t, N) const {
    return typename Vectors<C>::V() + extra;
  }
  typename C::Word scale_at(int64_t) const { return scale; }
  typename C::Word extra_at(int64_t) const { return extra; }
  UniformScale at(int64_t) const { return *this; }
};

/// The same where each vector lies in one block, of 2^shift vectors.
template <class C>
struct VectorScales {
  static constexpr bool exact = false;
  using Words = const typename C::Word*;
  Words scale, extra, inverse;
  int shift;

  VectorScales(Words scale, Words extra, Words inverse, int64_t block)
      : scale(scale), extra(extra), inverse(inverse), shift(lead(uint64_t(block)) - lead(count)) {}

  static bool fits(int64_t block) {
    return block >= int64_t(count) && block <= piece && (block & (block - 1)) == 0;
  }

  template <class N>
  QS_INLINE typename Vectors<C>::V inverses(int64_t i, N) const {
    return typename Vectors<C>::V() + inverse[block(i)];
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V scales(int64_t i, N) const {
    return typename Vectors<C>::V() + scale[block(i)];
  }
  template <class N>
  QS_INLINE typename Vectors<C>::V extras(int64_t i, N) const {
    return typename Vectors<C>::V() + extra[block(i)];
  }
  typename C::Word scale_at(int64_t i) const { return scale[block(i)]; }
  typename C::Word extra_at(int64_t i) const { return extra[block(i)]; }
  UniformScale<C> at(int64_t i) const { return {scale_at(i), extra_at(i), inverse[block(i)]}; }

 private:
  static constexpr uint64_t count = Vectors<C>::count;

  QS_INLINE int64_t block(int64_t i) const { return int64_t(uint64_t(i) / count >> shift); }
};

/// The rules with an inverse: |x|⊗i rounded, then times s. Constants and element here and below:
/// those of the dtype that is computed in.
template <class C, Shape shape, class M, class Run>
QS_INLINE void round_inverse_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                                 int64_t n, const uint32_t* words, const Run& given_run,
                                 const Constants<Single>& given, const Element& f,
                                 bool by_float32) {
  using V = Vectors<C>;
  using Vector = Vector32;
  const Vector none{};
  const Constants<Single> s = given;
  const Run run = given_run;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector scale = run.scales(i, count);
    const Floats inverse = Floats(run.extras(i, count)), factor = Floats(scale);
    const Vector raw = widened<C>(V::load(from + i, count)), magnitude = raw & (Single::sign - 1);
    // An infinity times 0 is NaN, and is to stay beyond every range, as infinities do.
    const Vector wide = Vector(Floats(magnitude) * inverse) & (Single::sign - 1);
    const Vector scaled =
        select<Vector>(magnitude == none, none, lesser<Vector>(wide, none + Single::infinity));
    const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
    const Vector r =
        rounded<Single, Shape::regular>(mode, scaled | (raw & Single::sign), word, s, f, 0);
    const Vector product = stored_product<C>(checked<Single, shape>(raw, r, s), factor, by_float32);
    const auto spoiled = signed_of(scale) > signed_of(none + Single::infinity);
    V::store(to + i, select<Vector>(spoiled, none + C::nan, product), count);
  });
}

/// x and s times a power of two that leaves s at least 2^-22 in float32, and less than 2 where it
/// was less than 1.
template <class B>
struct Lifted {
  FloatsOf<B> dividend, divisor;

  QS_INLINE Lifted(VectorIn<B> magnitude, VectorIn<B> scale)
      : dividend(FloatsOf<B>(magnitude)), divisor(FloatsOf<B>(scale)) {
    if constexpr (B::width == 32) {
      const Vector32 none{}, field = scale >> B::mantissa;
      const Vector32 up = greater<Vector32>(none, lesser<Vector32>(none + 127, none + 127 - field));
      const Floats lift = Floats((up + Single::bias) << Single::mantissa);
      dividend *= lift;
      divisor *= lift;
    }
  }
};

/// Whether `round_quotient_run` takes elements of a format.
template <class B>
inline bool takes_quotients(const Element& f) {
  return shape_of<B>(f, 0, true) != Shape::any && f.fraction <= B::mantissa - 2 &&
         f.least_exponent >= -45 && greatest_of(f.max_exponent, f.min_exponent) < 127;
}

/// Whether it takes the scales of a format: numbers of B, far from the ends of float64.
template <class B>
inline bool takes_scales(const Element& scale) {
  constexpr int least = B::width == 32 ? B::least_exponent : -500,
                most = B::width == 32 ? B::bias : 500;
  return scale.table_count == 0 && scale.fraction <= B::mantissa && scale.least_exponent >= least &&
         scale.max_exponent <= most && scale.ulp_exponent >= B::least_exponent;
}

/// The constants of elements with zero points: bounds that come with the scales.
template <class B, class Vector>
inline Constants<B, Vector> with_zero_points(const Constants<B>& s, Vector most, Vector zeros) {
  Constants<B, Vector> all{};
  const Vector none{};
  auto float_bits = [](Vector n) QS_INLINE_LAMBDA {
    using Signed = typename Kind<Vector>::Signed;
    return Vector(__builtin_convertvector(Signed(n), FloatsOf<B>));
  };
  all.breakpoint = none + s.breakpoint;
  all.ulp_exponent = none + s.ulp_exponent;
  all.tiny = none + s.tiny;
  all.bound = float_bits(most - zeros);
  all.negative_bound = float_bits(zeros);
  all.normal = s.normal;
  all.sign = s.sign;
  all.negative_zero = s.negative_zero;
  all.random_mask = s.random_mask;
  return all;
}

/// The other rules: x/s rounded, then times s. `slow(i, raw)`: element i by `round_scaled`.
///
/// Rounding x/s to odd at p bits, those of B, first changes no deterministic mode: at up to p - 2
/// bits of the element's (`fraction` is one less) the bounds between results are even. A stochastic
/// mode has finer bounds: there both even neighbours are rounded, between which x/s lies, or which
/// it is. Rounding with a given word is monotone, so where they agree, that is the result; else the
/// element goes by `round_scaled`.
///
/// Below 2^-34 of the least positive value no mode sees more than that x/s is not zero, which an
/// odd quotient never is. In float32 from there on the residual has no bit below 2^-149: q ≥ 2^-79
/// has units of 2^-102, and scales below 1 are lifted, with x, by a power of two that leaves s at
/// least 2^-22, in units of 2^-45, and less than 2. Where that lifts x to infinity, x/s is at least
/// 2^127, beyond the range, and so is whatever comes of it. In float64 units of 2^-131 and, s being
/// 2^-500 at least, of 2^-552 are above 2^-1074 without.
///
/// Products are multiples of 2^-45 times a unit of s: their residual has no bit below 2^-149 either
/// where s is at least 2^-81. For smaller s an element of float16 or bfloat16 that is not zero goes
/// by `round_scaled`.
template <class C, Shape shape, bool zero_points, class M, class Run, class Slow>
QS_INLINE void round_quotient_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                                  int64_t n, const uint32_t* words, const Run& given_run,
                                  const Constants<Computing<C>>& given, const Element& f,
                                  typename C::Word most, Slow slow) {
  using B = Computing<C>;
  using V = Vectors<C>;
  using Vector = typename V::V;
  using Reals = FloatsOf<B>;
  using Word = typename C::Word;
  const Vector none{};
  const Constants<B> s = given;
  const Run run = given_run;
  // Under a zero point the bounds are the scale's, but not what infinities become.
  const bool to_bounds = f.positive_infinity == OverflowResult::to_bound &&
                         f.negative_infinity == OverflowResult::to_bound;
  const Word infinity = to_bounds ? B::sign : B::infinity;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector loaded = V::load(from + i, count), scale = run.scales(i, count);
    const auto spoiled = signed_of(scale) > signed_of(none + B::infinity);
    const Vector raw = widened<C>(loaded), sign = raw & B::sign, magnitude = raw ^ sign;
    const Lifted<B> x(magnitude, scale);
    const Vector quotient = quotient_to_odd<B>(x.dividend, x.divisor);
    const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
    const Vector doubt = is_stochastic(mode) ? quotient & 1 : none;
    auto unsure = none != none;
    const Vector r =
        rounded<B, Shape::regular>(mode, (quotient - doubt) | sign, word, s, f, 0, doubt + doubt,
                                   is_stochastic(mode) ? &unsure : nullptr);
    if constexpr (C::mantissa < B::mantissa)
      unsure |= (magnitude != none) &
                (signed_of(scale) < signed_of(none + (Word(B::bias - 81) << B::mantissa)));
    if constexpr (zero_points) unsure |= magnitude == none + infinity;
    Vector element;
    if constexpr (zero_points) {
      element =
          checked<B, shape>(raw, r, with_zero_points<B>(s, none + most, run.extras(i, count)));
    } else {
      element = checked<B, shape>(raw, r, s);
    }
    const Vector product = stored_product<C>(element, Reals(scale), false);
    V::store(to + i, select<Vector>(spoiled, none + C::nan, product), count);
    unsure &= ~spoiled;
    if (!any<Vector>(unsure)) return;
    for (int64_t j = 0; j < int64_t(size_t(count)); ++j) {
      if (unsure[j]) to[i + j] = slow(i + j, loaded[j]);
    }
  });
}

QS_END
