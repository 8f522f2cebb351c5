// Runs of elements under powers of two of their own, in vectors.
//
// x under 2^S is x·2^-S under the scale 1, times 2^S: exponents are shifted before and after, and
// all constants are those of one scale.
#pragma once
#include "cpu/floats.h"

QS_BEGIN

/// The powers S for which shifting gives what `round_element` gives. B: the dtype that is computed
/// in.
///
/// - Below 2^-34 of the least positive value no mode sees more than that x is not zero: what is
///   smaller than 2^-35 of it stands for `small`, which is that. Subnormals of B, whose exponents
///   do not shift, must be among them: S ≥ 36 - bias - least exponent.
/// - Results are multiples of 2^S times the least spacing, which C must hold.
/// - The greatest value times 2^S must be one of C.
/// - From 2^(greatest exponent + 1) on, all is beyond the range: what is greater is cut to `beyond`
///   times 2^S.
template <class C>
struct ShiftedRange {
  using B = Computing<C>;
  using Word = typename C::Word;
  int least = 1, greatest = 0;  // empty
  Word small = 0, beyond = 0;
  bool has_zero = false;

  explicit ShiftedRange(const Element& f) {
    const int end = greatest_of(f.max_exponent, f.min_exponent);
    if (f.table_count || shape_of<B>(f, 0, true) == Shape::any || f.ulp_exponent < -B::bias ||
        f.least_exponent < 36 - B::bias || end + 1 > B::bias)
      return;
    least = greatest_of(36 - B::bias - f.least_exponent, C::least_exponent - f.ulp_exponent);
    greatest = C::bias - end;
    small = Word(f.least_exponent - 35 + B::bias) << B::mantissa;
    beyond = Word(end + 1 + B::bias) << B::mantissa;
    has_zero = f.has_zero;
  }

  bool holds(int power) const { return power >= least && power <= greatest; }
};

/// Elements of C as bits under powers that `range` holds.
template <class C, Shape shape, class M, class Vector>
QS_INLINE Vector round_shifted(M mode, Vector stored, Vector power, Vector word,
                               const Constants<Computing<C>>& s, const Element& f,
                               const ShiftedRange<C>& range) {
  using B = Computing<C>;
  const Vector none{}, up = power << B::mantissa;
  const Vector raw = widened<C>(stored), magnitude = raw & (B::sign - 1);
  const Vector cut = lesser<Vector>(magnitude, up + range.beyond) - up;
  const Vector shifted =
      select<Vector>(magnitude == none, none, greater<Vector>(cut, none + range.small));
  const Vector r = rounded<B, Shape::regular>(mode, shifted | (raw & B::sign), word, s, f, 0);
  const Vector out = checked<B, shape>(raw, r, s), size = out & (B::sign - 1);
  const auto number = (size != none) & (signed_of(size) < signed_of(none + B::infinity));
  return narrowed<C>(out + select<Vector>(number, up, none));
}

/// Lanes under other powers, or under `no_power`, which makes them NaN. f: in C.
template <class C>
__attribute__((noinline)) void round_unshifted(Mode mode, typename C::Stored* to,
                                               typename Vectors<C>::V stored,
                                               typename Vectors<C>::V power,
                                               typename Vectors<C>::V word,
                                               typename Vectors<C>::V lanes, const Element& f) {
  using Word = typename C::Word;
  using Vector = typename Vectors<C>::V;
  const Vector none{};
  const auto spoiled = power == none + Word(no_power);
  const auto low = signed_of(power) < signed_of(none + Word(least_regular_power<C>(f)));
  const auto s = constants_under<C, Vector>(f, select<Vector>(spoiled, none, power));
  const Vector out = select<Vector>(spoiled, none + C::nan,
                                    round_element<C, Shape::regular>(mode, stored, word, s, f, 0));
  for (int j = 0; j < Vectors<C>::count; ++j) {
    if (!lanes[j]) continue;
    const int scale = int(signed_of(Word(power[j])));
    to[j] = typename C::Stored(
        low[j] ? round_element<C, Shape::any>(mode, Word(stored[j]), Word(word[j]),
                                              constants_of<C>(f, scale), f, scale)
               : Word(out[j]));
  }
}

/// A run of elements under powers, the signed words that `run` has as scales.
template <class C, Shape shape, class M, class Run>
QS_INLINE void round_power_run(M mode, const typename C::Stored* from, typename C::Stored* to,
                               int64_t n, const uint32_t* words, const Run& given_run,
                               const Constants<Computing<C>>& given, const Element& computed,
                               const Element& f, const ShiftedRange<C>& given_range) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  const Vector none{};
  const Constants<Computing<C>> s = given;  // copies that no store can change
  const ShiftedRange<C> range = given_range;
  const Run run = given_run;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector stored = V::load(from + i, count), power = run.scales(i, count);
    const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
    V::store(to + i, round_shifted<C, shape>(mode, stored, power, word, s, computed, range), count);
    const auto outside = (signed_of(power) < signed_of(none + Word(range.least))) |
                         (signed_of(power) > signed_of(none + Word(range.greatest)));
    // Zeros are none the worse, unless they are to be NaN, or the format has no zero.
    const auto kept = (stored & (C::sign - 1)) == none;
    const auto special =
        range.has_zero ? outside & (~kept | (power == none + Word(no_power))) : outside;
    if (!any<Vector>(special)) return;
    Vector lanes = Vector(special);
    for (int64_t j = int64_t(size_t(count)); j < V::count; ++j) lanes[j] = 0;
    round_unshifted<C>(mode, to + i, stored, power, word, lanes, f);
  });
}

QS_END
