// Runs of elements rounded to a table of values, in vectors, by an index of its steps
// (`table_index.py`); `round_to_table` is what they equal.
#pragma once
#include "cpu/scaled_rows.h"

QS_BEGIN

/// Words of an array at the lanes' indices.
inline Vector32 gather(const uint32_t* from, Vector32 at) {
#if defined(__AVX512F__)
  return Vector32(_mm512_i32gather_epi32(__m512i(at), from, 4));
#elif defined(__AVX2__)
  return Vector32(_mm256_i32gather_epi32(reinterpret_cast<const int*>(from), __m256i(at), 4));
#else
  Vector32 words;
  for (int i = 0; i < vector_bytes / 4; ++i) words[i] = from[at[i]];
  return words;
#endif
}
inline Vector64 gather(const uint64_t* from, Vector64 at) {
#if defined(__AVX512F__)
  return Vector64(_mm512_i64gather_epi64(__m512i(at), from, 8));
#elif defined(__AVX2__)
  return Vector64(_mm256_i64gather_epi64(reinterpret_cast<const long long*>(from), __m256i(at), 8));
#else
  Vector64 words;
  for (int i = 0; i < vector_bytes / 8; ++i) words[i] = from[at[i]];
  return words;
#endif
}

/// Whether numbers lie in the upper part of their intervals, as the random words have it: lanes of
/// ones. Mode A goes up where ν ≥ 1 - w/2^N, ν = (x - start)/width, so by the sign of
/// rest = x - start - (1 - w/2^N)·width. In floats with a unit roundoff of u, x - start, width and
/// (1 - w/2^N) are off by at most u·width, u·width and 2u, and rest by less than 8u·width after
/// all: nearer to 0 than that, lanes are `unsure`. `off`: by how much x may be more than
/// `magnitude`.
template <class C>
QS_INLINE typename Vectors<C>::V goes_up(typename Vectors<C>::V magnitude,
                                         typename Vectors<C>::V position,
                                         typename Vectors<C>::V word, const TableIndex& index,
                                         FloatsOf<Computing<C>> off,
                                         typename Vectors<C>::V& unsure) {
  using B = Computing<C>;
  using Word = typename B::Word;
  using Vector = VectorIn<B>;
  using Reals = FloatsOf<B>;
  using Signed = typename Kind<Vector>::Signed;
  const Reals none{}, unit = none + (B::width == 32 ? 0x1p-21 : 0x1p-50);
  const Reals start = Reals(gather(static_cast<const Word*>(index.starts), position));
  const Reals width = Reals(gather(static_cast<const Word*>(index.widths), position));
  // Halves of words are signed numbers, which vectors convert.
  const Vector half = word >> (C::width - 31), last = (word >> (C::width - 32)) & 1;
  const Reals share = __builtin_convertvector(Signed(half), Reals) * Reals(none + 0x1p-31) +
                      __builtin_convertvector(Signed(last), Reals) * Reals(none + 0x1p-32);
  const Reals rest = residual(Reals(magnitude) - start, none + 1 - share, width);
  const Reals near = width * unit + off;
  const auto sure = (rest > near) | (-rest > near) | (width < none);
  unsure |= ~Vector(sure);
  return Vector((rest > none) & (width > none));
}

constexpr int short_table = 16;  // values up to which comparing with each beats an index

/// Finds bits of values by comparing with thresholds, for deterministic modes.
template <class C>
struct ShortTable {
  using Word = typename C::Word;
  using Vector = typename Vectors<C>::V;
  static constexpr Word none_above = ~Word(0) >> 1;
  Word thresholds[short_table], values[short_table];
  int last;

  explicit ShortTable(const Table& t)
      : last(t.thresholds && t.count <= short_table ? t.count - 1 : -1) {
    for (int i = 0; i < short_table; ++i) {
      values[i] = i <= last ? Word(uint64_t(t.values[i])) & (C::sign | (C::sign - 1)) : 0;
      thresholds[i] = i < last ? Word(uint64_t(t.thresholds[i])) : none_above;
    }
  }

  /// near: lanes of ones where `next`, the key of a negative number, or one more than that of
  /// another, is a threshold.
  template <bool cut>
  QS_INLINE Vector at(Vector key, Vector next, mask_of<Vector> minus, Vector& near) const {
    const Vector none{};
    if constexpr (Vectors<C>::count == short_table) {  // a search within a vector
      Vector steps, all;
      __builtin_memcpy(&steps, thresholds, sizeof steps);
      __builtin_memcpy(&all, values, sizeof all);
      Vector position{};
      for (Word half = short_table / 2; half > 0; half /= 2) {
        const Vector step = turned<Vector>(steps, position + (half - 1));
        position += select<Vector>(signed_of(step) <= signed_of(key), none + half, none);
      }
      if constexpr (cut) {
        const Vector place = position + Vector(minus);
        near |= Vector(turned<Vector>(steps, place & (short_table - 1)) == next);
      }
      return turned<Vector>(all, position);
    }
    Vector bits = none + values[0];
    for (int i = 0; i < last; ++i) {
      bits = select<Vector>(signed_of(key) >= signed_of(none + thresholds[i]), none + values[i + 1],
                            bits);
      if constexpr (cut) near |= Vector(next == none + thresholds[i]);
    }
    return bits;
  }
};

/// How a run of elements finds its values.
enum class Lookup { compare, index, index_stochastic };

/// Finds the values of numbers in C, by a deterministic mode or stochastic_a. cut: the numbers are
/// more by less than one unit in the last place, and steps were rounded up to C: one that lies a
/// unit above a number leaves it `unsure`.
template <class C, Lookup lookup, bool cut>
class TableLookup {
 public:
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;

  TableLookup(const Table& t, const ShortTable<C>& compared)
      : index_(t.index),
        first_(static_cast<const Word*>(t.index.first)),
        steps_(static_cast<const Word*>(t.index.steps)),
        values_(static_cast<const Word*>(t.index.bits)),
        mask_(top_bits<Word>(t.random_bits)),
        negative_zero_(t.has_negative_zero ? C::sign : 0),
        compared_(compared) {}

  /// Bits of the values; minus: mask of the sign bit; negative: of those that are not zero.
  QS_INLINE Vector find(Vector magnitude, mask_of<Vector> minus, mask_of<Vector> negative,
                        Vector word, Vector& unsure) const {
    using Reals = FloatsOf<Computing<C>>;
    const Vector none{}, above = magnitude + 1;
    Vector bits;
    if constexpr (lookup == Lookup::compare) {
      const Vector key = select<Vector>(minus, none - magnitude, magnitude);
      Vector near{};
      bits = compared_.template at<cut>(key, select<Vector>(minus, key, above), minus, near);
      unsure |= near;
    } else {
      const Vector bucket =
          lesser<Vector>(greater<Vector>(magnitude >> index_.shift, none + Word(index_.low)),
                         none + Word(index_.high)) -
          Word(index_.low);
      Vector position = gather(
          first_,
          bucket + select<Vector>(negative, none + Word(index_.high - index_.low + 1), none));
      for (int level = index_.levels - 1; level >= 0; --level) {
        const Word half = Word(1) << level;
        const Vector step = gather(steps_, position + (half - 1));
        position += select<Vector>(signed_of(step) <= signed_of(magnitude), none + half, none);
      }
      if constexpr (lookup == Lookup::index_stochastic) {
        const Vector wide = widened<C>(magnitude);
        Reals off{};
        if constexpr (cut) off = Reals(wide) * Reals(off + (C::width == 32 ? 0x1p-22 : 0x1p-51));
        position -= goes_up<C>(wide, position, word & mask_, index_, off, unsure);
      } else if constexpr (cut) {
        unsure |= Vector(gather(steps_, position) == above);
      }
      bits = gather(values_, position);
    }
    return select<Vector>(minus & (bits == none), none + negative_zero_, bits);
  }

 private:
  TableIndex index_;
  const Word *first_, *steps_, *values_;
  Word mask_, negative_zero_;
  const ShortTable<C>& compared_;
};

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
                            const ShortTable<C>& compared) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  const Vector none{};
  // Where both ends and both infinities saturate, NaN alone is left to look at.
  const bool all = saturates(t, true);
  const Word low = all ? Word(0) - C::infinity : Word(uint64_t(t.low));
  const Word high = all ? C::infinity : Word(uint64_t(t.high));
  const TableLookup<C, lookup, false> table(t, compared);
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const auto minus = (raw & C::sign) != none;
    const auto nan = signed_of(magnitude) > signed_of(none + C::infinity);
    const Vector key = select<Vector>(minus, none - magnitude, magnitude);
    Vector unsure{}, word{};
    if constexpr (lookup == Lookup::index_stochastic) word = V::words(words + i, count);
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
  });
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
                                   Slow slow) {
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
  const TableLookup<B, lookup, cut> table(t, compared);
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
    if constexpr (lookup == Lookup::index_stochastic) word = V::words(words + i, count);
    const Vector found = table.find(quotient, minus, minus & ~zero, word, unsure);
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
