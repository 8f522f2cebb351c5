// Runs of elements rounded to a table of values, in vectors; `round_to_table` is what they equal.
#pragma once
#include "cpu/scaled_rows.h"
#include "cpu/short_lanes.h"

QS_BEGIN

/// Whether all that is beyond the range becomes its ends.
inline bool saturates(const Table& t, bool infinities) {
  return t.above == OverflowResult::to_bound && t.below == OverflowResult::to_bound &&
         (!infinities || (t.positive_infinity == OverflowResult::to_bound &&
                          t.negative_infinity == OverflowResult::to_bound));
}

/// A run of elements by a deterministic mode, or stochastic_a.
template <class C, Lookup lookup>
inline void round_table_run(const typename C::Stored* from, typename C::Stored* to, int64_t n,
                            const uint32_t* words, Mode mode, const Table& t,
                            const ShortTable<C>& compared, const ShortSteps<C>& steps) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  const Vector none{};
  // Where both ends and both infinities saturate, NaN alone is left to look at.
  const bool all = saturates(t, true);
  const Word low = all ? Word(0) - C::infinity : Word(uint64_t(t.low));
  const Word high = all ? C::infinity : Word(uint64_t(t.high));
  const TableLookup<C, lookup, false> table(t, compared, steps);
  auto round = [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const auto minus = (raw & C::sign) != none;
    const auto nan = signed_of(magnitude) > signed_of(none + C::infinity);
    const Vector key = select<Vector>(minus, none - magnitude, magnitude);
    Vector unsure{}, word{};
    if constexpr (is_stochastic(lookup)) word = V::words(words + i, count);
    const Vector found = table.find(magnitude, minus, minus & (magnitude != none), word, unsure);
    const Vector bits = select<Vector>(nan, raw, found);
    const auto beyond = ~nan & ((signed_of(key) < signed_of(none + low)) |
                                (signed_of(key) > signed_of(none + high)));
    V::store(to + i, bits, count);
    const auto special = beyond | (unsure != none);
    if (!any<Vector>(special)) return;
    for (int64_t j = 0; j < int64_t(size_t(count)); ++j) {
      if (!special[j]) continue;
      if (unsure[j]) {
        const uint64_t word = words ? uint64_t(words[i + j]) << 32 : 0;
        to[i + j] = typename C::Stored(round_to_table<C>(mode, Word(raw[j]), word, t));
      } else {
        to[i + j] = typename C::Stored(checked_in_table<C>(raw[j], bits[j], t));
      }
    }
  };
  int64_t first = 0;
  if constexpr (C::storage == 16 && is_spacing(lookup)) {
    const ShortLanes<C, is_stochastic(lookup)> lanes(t);
    for (; lanes.taken() && first + short_lanes <= n; first += short_lanes) {
      if (lanes.round(from + first, to + first, words ? words + first : nullptr)) continue;
      for (int64_t i = first; i < first + short_lanes; i += V::count) round(i, Whole<V::count>());
    }
  }
  in_vectors<V::count>(n - first,
                       [&](int64_t i, auto count) QS_INLINE_LAMBDA { round(first + i, count); });
}

/// A run of elements under scales, rounded to a table in the dtype that is computed in.
/// `slow(i, raw)`: element i by `round_scaled_to_table`.
///
/// In float32 quotients are cut (`TableLookup`). In float64 they are rounded to odd, for which
/// numbers below 2^-960 are too small: below, as for zeros that are none, infinities, and at the
/// ends of tables that do not saturate, elements are slow. So are products in float16 and bfloat16
/// below 2^-100, whose residual has bits below 2^-149 (`multiplied`).
template <class C, Lookup lookup, class Run, class Slow>
inline void round_scaled_table_run(const typename C::Stored* from, typename C::Stored* to,
                                   int64_t n, const uint32_t* words, const Run& given_run,
                                   const Table& t, const ShortTable<Computing<C>>& compared,
                                   const ShortSteps<Computing<C>>& steps, Slow slow) {
  using B = Computing<C>;
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  using Reals = FloatsOf<B>;
  constexpr bool cut = B::width == 32;
  const Vector none{};
  const Run run = given_run;
  const bool finite = saturates(t, false);
  const Word low = Word(uint64_t(t.low)), high = Word(uint64_t(t.high));
  const TableLookup<B, lookup, cut> table(t, compared, steps);
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector loaded = V::load(from + i, count), given_scale = run.scales(i, count);
    const auto spoiled = signed_of(given_scale) > signed_of(none + B::infinity);
    const Vector one = none + (Word(B::bias) << B::mantissa);
    const Vector scale = select<Vector>(spoiled, one, given_scale);
    const Vector raw = widened<C>(loaded), magnitude = raw & (B::sign - 1);
    const auto minus = (raw & B::sign) != none;
    const auto zero = magnitude == none, nan = signed_of(magnitude) > signed_of(none + B::infinity);
    const Lifted<B> x(magnitude, scale);
    Vector quotient, unsure{}, word{};
    if constexpr (cut) {
      quotient = quotient_cut<B>(x.dividend, x.divisor);
      unsure |= Vector(~zero & (quotient == none));
    } else {
      quotient = quotient_to_odd<B>(x.dividend, x.divisor);
      unsure |= Vector(~zero & (magnitude < none + (Word(B::bias - 960) << B::mantissa)));
    }
    quotient = select<Vector>(zero, none, lesser<Vector>(quotient, none + (B::infinity - 1)));
    if constexpr (is_stochastic(lookup)) word = V::words(words + i, count);
    const Vector found = table.find(quotient, minus, minus & ~zero, word, unsure);
    if constexpr (cut && !is_stochastic(lookup)) unsure &= ~Vector(zero);  // which is nothing cut
    const Vector product = multiplied<C>(found, Reals(scale), false);
    unsure |= Vector(magnitude == none + B::infinity);
    if (!finite) {
      const Vector key = select<Vector>(minus, none - quotient, quotient);
      unsure |= Vector((signed_of(key) <= signed_of(none + low)) |
                       (signed_of(key) >= signed_of(none + high)));
    }
    if constexpr (C::mantissa < B::mantissa) {
      const Vector size = product & (B::sign - 1);
      unsure |= Vector((found & (B::sign - 1)) != none) &
                Vector(signed_of(size) < signed_of(none + (Word(B::bias - 100) << B::mantissa)));
    }
    V::store(to + i, select<Vector>(spoiled | nan, none + C::nan, narrowed<C>(product)), count);
    unsure &= ~Vector(spoiled) & ~Vector(nan);
    if (!any<Vector>(unsure != none)) return;
    for (int64_t j = 0; j < int64_t(size_t(count)); ++j) {
      if (unsure[j]) to[i + j] = slow(i + j, loaded[j]);
    }
  });
}

QS_END
