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
/// all: nearer to 0 than that, lanes are `unsure`.
template <class C>
QS_INLINE typename Vectors<C>::V goes_up(typename Vectors<C>::V magnitude,
                                         typename Vectors<C>::V position,
                                         typename Vectors<C>::V word, const TableIndex& index,
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
  const auto sure = (rest > width * unit) | (-rest > width * unit);
  unsure = ~Vector(sure);
  return Vector((rest > none) & (width > none));
}

constexpr int short_table = 16;  // values up to which comparing with each beats an index

/// Finds bits of values by comparing with the threshold of each, for deterministic modes.
template <class C>
struct ShortTable {
  using Word = typename C::Word;
  Word thresholds[short_table], values[short_table];
  int last;

  /// Of nothing, if it is not used.
  ShortTable(const Table& t, bool used) : last(used ? t.count - 1 : -1) {
    for (int i = 0; i <= last; ++i) {
      values[i] = Word(uint64_t(t.values[i])) & (C::sign | (C::sign - 1));
      thresholds[i] = i < last ? Word(uint64_t(t.thresholds[i])) : 0;
    }
  }
  template <class Vector>
  QS_INLINE Vector at(Vector key) const {
    const Vector none{};
    Vector bits = none + values[0];
    for (int i = 0; i < last; ++i) {
      bits = select<Vector>(signed_of(key) >= signed_of(none + thresholds[i]), none + values[i + 1],
                            bits);
    }
    return bits;
  }
};

/// How a run of elements finds its values.
enum class Lookup { compare, index, index_stochastic };

/// A run of elements by a deterministic mode, or stochastic_a.
template <class C, Lookup lookup>
inline void round_table_run(const typename C::Stored* from, typename C::Stored* to, int64_t n,
                            const uint32_t* words, Mode mode, const Table& t) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  const Vector none{};
  const TableIndex index = t.index;
  const Word* first = static_cast<const Word*>(index.first);
  const Word* steps = static_cast<const Word*>(index.steps);
  const Word* values = static_cast<const Word*>(index.bits);
  // Where both ends and both infinities saturate, NaN alone is left to look at.
  const bool saturates = t.above == OverflowResult::to_bound &&
                         t.below == OverflowResult::to_bound &&
                         t.positive_infinity == OverflowResult::to_bound &&
                         t.negative_infinity == OverflowResult::to_bound;
  const Word low = saturates ? Word(0) - C::infinity : Word(uint64_t(t.low));
  const Word high = saturates ? C::infinity : Word(uint64_t(t.high));
  const Word negative_zero = t.has_negative_zero ? C::sign : 0;
  const Word mask = top_bits<Word>(t.random_bits);
  const ShortTable<C> compared(t, lookup == Lookup::compare);
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const auto minus = (raw & C::sign) != none;
    const auto nan = signed_of(magnitude) > signed_of(none + C::infinity);
    const Vector key = select<Vector>(minus, none - magnitude, magnitude);
    Vector unsure{}, bits;
    if constexpr (lookup == Lookup::compare) {
      bits = compared.at(key);
    } else {
      const auto negative = minus & (magnitude != none);
      const Vector bucket =
          lesser<Vector>(greater<Vector>(magnitude >> index.shift, none + Word(index.low)),
                         none + Word(index.high)) -
          Word(index.low);
      Vector position = gather(
          first, bucket + select<Vector>(negative, none + Word(index.high - index.low + 1), none));
      for (int level = index.levels - 1; level >= 0; --level) {
        const Word half = Word(1) << level;
        const Vector step = gather(steps, position + (half - 1));
        position += select<Vector>(signed_of(step) <= signed_of(magnitude), none + half, none);
      }
      if constexpr (lookup == Lookup::index_stochastic) {
        const Vector word = V::words(words + i, count) & mask;
        position -= goes_up<C>(widened<C>(magnitude), position, word, index, unsure);
      }
      bits = gather(values, position);
    }
    bits = select<Vector>(minus & (bits == none), none + negative_zero, bits);
    bits = select<Vector>(nan, raw, bits);
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

QS_END
