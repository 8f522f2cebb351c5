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

/// Numbers of an array at as many indices.
template <class Indices>
QS_INLINE Doubles gather(const double* from, Indices at) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Indices) == 32) return Doubles(_mm512_i32gather_pd(__m256i(at), from, 8));
  if constexpr (sizeof(Indices) == 64) return Doubles(_mm512_i64gather_pd(__m512i(at), from, 8));
#endif
  Doubles numbers;
  for (int i = 0; i < vector_bytes / 8; ++i) numbers[i] = from[at[i]];
  return numbers;
}

/// Whether numbers lie in the upper part of their intervals, as the random words have it: lanes of
/// ones. Mode A goes up where ν ≥ 1 - w/2^N, ν = (x - start)/width. Without a division: where
/// x - start - (1 - w/2^N)·width ≥ 0, of which float64 has the sign, since it has each of the three
/// numbers, rounds the whole once, and no exact value but 0 is so small as to become 0. `unsure`:
/// lanes in which it may not have them.
template <class C>
QS_INLINE typename Vectors<C>::V goes_up(typename Vectors<C>::V magnitude,
                                         typename Vectors<C>::V position,
                                         typename Vectors<C>::V word, const TableIndex& index,
                                         typename Vectors<C>::V& unsure) {
  using B = Computing<C>;
  using Word = typename C::Word;
  using Number = std::conditional_t<B::width == 32, float, double>;
  constexpr int lanes = vector_bytes / 8;
  constexpr double infinite = __builtin_inf();
  typedef Number Numbers __attribute__((vector_size(lanes * sizeof(Number))));
  typedef Word Words __attribute__((vector_size(lanes * sizeof(Word))));
  typedef std::make_signed_t<Word> Masks __attribute__((vector_size(lanes * sizeof(Word))));
  typename Vectors<C>::V up{};
  for (int first = 0; first < Vectors<C>::count; first += lanes) {
    const auto part = [&](auto* to, const auto& from) QS_INLINE_LAMBDA {
      __builtin_memcpy(to, reinterpret_cast<const Word*>(&from) + first, sizeof *to);
    };
    Numbers numbers;
    Words at, chosen;
    part(&numbers, magnitude);
    part(&at, position);
    part(&chosen, word);
    const Doubles x = __builtin_convertvector(numbers, Doubles);
    const Doubles share = __builtin_convertvector(chosen >> (C::width - 32), Doubles);
    const Doubles start = gather(index.starts, at), width = gather(index.widths, at);
    const Doubles rest = residual(x - start, Doubles() + 1 - share * 0x1p-32, width);
    auto doubtful = width != width;
    if constexpr (C::width == 64)  // x - start is exact from 0 or within a factor of two
      doubtful |= (start != Doubles()) & (start + start < x) & (width < Doubles() + infinite);
    const Masks above = __builtin_convertvector(rest >= Doubles(), Masks),
                doubt = __builtin_convertvector(doubtful, Masks);
    __builtin_memcpy(reinterpret_cast<Word*>(&up) + first, &above, sizeof above);
    __builtin_memcpy(reinterpret_cast<Word*>(&unsure) + first, &doubt, sizeof doubt);
  }
  return up;
}

/// A run of elements by a deterministic mode, or stochastic_a.
template <class C, bool stochastic>
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
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const auto minus = (raw & C::sign) != none, negative = minus & (magnitude != none);
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
    const auto nan = signed_of(magnitude) > signed_of(none + C::infinity);
    Vector unsure{};
    if constexpr (stochastic) {
      const Vector word = V::words(words + i, count) & mask;
      position -= goes_up<C>(widened<C>(magnitude), position, word, index, unsure);
    }
    Vector bits = gather(values, position);
    bits = select<Vector>(minus & (bits == none), none + negative_zero, bits);
    bits = select<Vector>(nan, raw, bits);
    const Vector key = select<Vector>(minus, none - magnitude, magnitude);
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
