// Runs of elements under scales that are no powers of two, in a few operations where these tell the
// result; `round_quotient_run` has the others.
//
// q = x·(1/s) is off by less than 2^-22 of its binade 2^e, in float32. Stochastic modes go up where
// ν + u ≥ 1, so they give the multiple of the spacing Q that is nearest to y = q + (u - 1/2)·Q, as
// to nearest is that of y = q. Adding 3·2^(p-1)·Q, p the mantissa's bits, and taking it off again
// rounds y so, since there floats are Q apart. All errors of y together, the one of u to 24 bits
// included, are less than half of 2^-20·2^e, by which the limit is below Q/2. So a y that is
// within the limit of a multiple has no other nearest one. Where q has another binade than x/s,
// both are next to that power of two; y is then within the limit only if that is the result in
// either binade. NaN is within no limit.
#pragma once
#include "cpu/power_rows.h"
#include "cpu/scaled_rows.h"

QS_BEGIN

/// Whether a ≤ b in all lanes; false where there is a NaN.
QS_INLINE bool all_at_most(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_LE_OQ) == 0xFFFF;
#else
  return !any<Vector32>(~(a <= b));
#endif
}
QS_INLINE bool all_at_most(Doubles a, Doubles b) {
#if defined(__AVX512F__)
  return _mm512_cmp_pd_mask(__m512d(a), __m512d(b), _CMP_LE_OQ) == 0xFF;
#else
  return !any<Vector64>(~(a <= b));
#endif
}

/// 1/s; NaN where elements go by `round_quotient_run`: from 2^(bias - 2) on, where 1/s is
/// subnormal, and in dtypes of 16 bits below 2^-81, where products have no residual.
template <class C>
QS_INLINE VectorIn<Computing<C>> quick_inverse(VectorIn<Computing<C>> scale) {
  using B = Computing<C>;
  using Vector = VectorIn<B>;
  const Vector none{}, one = none + (typename C::Word(B::bias) << B::mantissa);
  const Vector inverse = Vector(FloatsOf<B>(one) / FloatsOf<B>(scale));
  constexpr int least = C::mantissa < B::mantissa ? -81 : B::least_exponent;
  const auto taken = (signed_of(scale) >= signed_of(none + join<B>({least, B::hidden}))) &
                     (signed_of(scale) < signed_of(none + join<B>({B::bias - 2, B::hidden})));
  return select<Vector>(taken, inverse, none + B::nan);
}

/// Whether elements may be rounded so by a mode.
constexpr bool may_be_quick(Mode mode) { return is_nearest(mode) || is_stochastic(mode); }

/// Powers of two, S as signed words in `run`, as scales and their inverses: NaN outside of a range,
/// where elements go by `round_power_run`.
template <class C, class Run>
struct PowerScales {
  using B = Computing<C>;
  using Vector = VectorIn<B>;
  using Word = typename B::Word;
  static constexpr bool exact = true;  // C holds what the range holds
  Run run;
  int least, greatest;

  PowerScales(const Run& run, const ShiftedRange<C>& range)
      : run(run),
        least(greatest_of(range.least, 1 - B::bias)),
        greatest(least_of(range.greatest, B::bias - 1)) {}

  template <class N>
  QS_INLINE Vector scales(int64_t i, N n) const {
    return (run.scales(i, n) + Word(B::bias)) << B::mantissa;
  }
  template <class N>
  QS_INLINE Vector inverses(int64_t i, N n) const {
    const Vector none{}, power = run.scales(i, n);
    const auto taken = (signed_of(power) >= signed_of(none + Word(least))) &
                       (signed_of(power) <= signed_of(none + Word(greatest)));
    return select<Vector>(taken, (Word(B::bias) - power) << B::mantissa, none + B::nan);
  }
};

/// How elements of a format are rounded so. B: the dtype that is computed in.
template <class B>
struct QuickRounding {
  using Word = typename B::Word;
  bool taken = false;
  Word least = 0;                          // bits of the binade where the spacing ends to fall
  Word shift = 0, spacing = 0, limit = 0;  // bits of factors of a binade
  uint32_t random_mask = 0;

  /// exact: whether q is x/s, as under powers of two. Then even ties have the right result. small:
  /// whether numbers that are not 0 may lie below 2^-60.
  QuickRounding(const Element& f, Mode mode, int random_bits, bool exact, bool small) {
    // Modes B and C go by more than A's condition where ν + u is within 2^-N of 1.
    const bool more = mode > Mode::stochastic_a, few = more && random_bits < 16;
    const bool steady = f.breakpoint < -60 ? !small : f.ulp_exponent == f.breakpoint - f.fraction;
    taken = may_be_quick(mode) && !few && f.table_count == 0 && f.has_zero && steady &&
            f.fraction <= B::mantissa - 13;
    if (!taken) return;
    using Float = typename FloatOf<Word>::Type;
    auto bits = [](double x) { return bits_as<Word>(Float(x)); };
    const double unit = power(-f.fraction);
    least = bits(power(greatest_of(f.breakpoint, -60)));
    shift = bits(1.5 * power(B::mantissa) * unit);
    spacing = bits(unit * 0x1p-32);
    const double error = exact && mode == Mode::nearest_even ? 0 : power(3 - B::mantissa);
    limit = bits(unit / 2 - error - (more ? unit * power(1 - random_bits) : 0));
    random_mask = top_bits<uint32_t>(random_bits);
  }

 private:
  static double power(int e) { return bits_as<double>(uint64_t(e + Double::bias) << 52); }
};

/// y ≥ 0 rounded, `size`, and at most `bound`; whether that is the result for sure. word: of a
/// stochastic mode, as `centred_words` has it.
template <Shape shape, class M, class B, class Vector>
QS_INLINE bool round_quickly(M, FloatsOf<B> y, Vector word, Vector bound,
                             const QuickRounding<B>& quick, Vector& size) {
  using Reals = FloatsOf<B>;
  using Signed = typename Kind<Vector>::Signed;
  const Vector none{};
  const Reals binade = Reals(greater<Vector>(Vector(y) & B::infinity, none + quick.least));
  if constexpr (is_stochastic(M()))
    y += __builtin_convertvector(Signed(word), Reals) * (binade * Reals(none + quick.spacing));
  const Reals shift = binade * Reals(none + quick.shift), r = (y + shift) - shift;
  const Reals off = Reals(Vector(y - r) & (B::sign - 1));
  size = lesser<Vector>(Vector(r), bound);
  const bool near = all_at_most(off, binade * Reals(none + quick.limit));
  return near && (shape == Shape::saturating || all_at_most(r, Reals(bound)));
}

/// Elements of C as numbers of the dtype that is computed in; for NaN any NaN.
template <class C, class N>
QS_INLINE VectorIn<Computing<C>> load_numbers(const typename C::Stored* from, N n) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<C, Half>) {
    using Packed = typename Vectors<C>::Packed;
    return Vector32(_mm512_cvtph_ps(__m256i(load_bytes<Packed>(from, bytes_of<uint16_t>(n)))));
  }
#endif
  return widened<C>(Vectors<C>::load(from, n));
}

/// `exact(i, n)`: n elements from i on by `round_quotient_run`.
template <class C, Shape shape, bool zero_points, class M, class Run, class Exact>
QS_INLINE void round_quick_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                               int64_t n, const uint32_t* words, const Run& given_run,
                               const Constants<Computing<C>>& given,
                               const QuickRounding<Computing<C>>& given_quick,
                               typename C::Word most, Exact exact) {
  using B = Computing<C>;
  using V = Vectors<C>;
  using Vector = typename V::V;
  using Reals = FloatsOf<B>;
  using Signed = typename Kind<Vector>::Signed;
  const Vector none{};
  const Constants<B> s = given;
  const Run run = given_run;
  const QuickRounding<B> quick = given_quick;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Reals scale = Reals(run.scales(i, count));
    const Vector raw = load_numbers<C>(from + i, count), sign = raw & B::sign;
    Vector word{}, bound, size;
    if constexpr (is_stochastic(M())) word = V::centred_words(words + i, quick.random_mask, count);
    if constexpr (zero_points) {
      const Vector zeros = run.extras(i, count);
      const Vector end = select<Vector>(sign != none, zeros, none + most - zeros);
      bound = Vector(__builtin_convertvector(Signed(end), Reals));
    } else {
      bound = select<Vector>(sign != none, none + s.negative_bound, none + s.bound);
    }
    const Reals y = Reals(raw ^ sign) * Reals(run.inverses(i, count));
    if (!round_quickly<shape>(mode, y, word, bound, quick, size))
      return exact(i, int64_t(size_t(count)));
    const Vector kept = raw & select<Vector>(size == none, none + s.negative_zero, none + B::sign);
    const Vector product = stored_magnitude<C, Run::exact>(size, scale);
    V::store(to + i, product | kept >> (B::storage - C::storage), count);
  });
}

QS_END
