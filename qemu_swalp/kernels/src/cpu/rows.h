// Runs of elements on a CPU, in vectors.
#pragma once
#include <cstddef>

#include "common/plan.h"
#include "cpu/vector.h"
#include "cpu/words.h"

QS_BEGIN

/// Vectors of a source dtype's words, and their way from and to memory.
template <class C>
struct Vectors {
  using Word = typename C::Word;
  using Stored = typename C::Stored;
  using V = typename VectorOf<Word>::Type;
  static constexpr int count = sizeof(V) / sizeof(Word);
  typedef Stored Packed __attribute__((vector_size(count * sizeof(Stored))));
  typedef uint32_t PackedWords __attribute__((vector_size(count * sizeof(uint32_t))));

  // N: Whole, or how many lanes of the last vector of a run are there; the others are 0 and are not
  // stored.
  template <class N>
  static V load(const Stored* from, N n) {
    Packed packed{};
    __builtin_memcpy(&packed, from, n * sizeof(Stored));
    return __builtin_convertvector(packed, V);
  }
  template <class N>
  static void store(Stored* to, V x, N n) {
    const Packed packed = __builtin_convertvector(x, Packed);
    __builtin_memcpy(to, &packed, n * sizeof(Stored));
  }
  /// 32-bit words in the top bits of words.
  template <class N>
  static V words(const uint32_t* from, N n) {
    PackedWords packed{};
    __builtin_memcpy(&packed, from, n * sizeof(uint32_t));
    return __builtin_convertvector(packed, V) << (C::width - 32);
  }
  template <class N>
  static V load_words(const Word* from, N n) {
    V x{};
    __builtin_memcpy(&x, from, n * sizeof(Word));
    return x;
  }
};

/// All lanes of a vector.
template <int count>
struct Whole {
  QS_INLINE constexpr operator size_t() const { return count; }
};

/// work(first element, how many lanes) for the vectors of a run.
template <int count, class Work>
QS_INLINE void in_vectors(int64_t n, Work work) {
  int64_t i = 0;
  for (; i + count <= n; i += count) work(i, Whole<count>());
  if (i < n) work(i, size_t(n - i));
}

template <class C>
inline typename C::Word in_top_bits(uint32_t word) {
  return typename C::Word(word) << (C::width - 32);
}

/// A run of elements under one scale.
template <class C, Shape shape, class M>
QS_INLINE void round_run(M mode, const typename C::Stored* from, typename C::Stored* to, int64_t n,
                         const uint32_t* words, const Constants<C>& given, const Element& f,
                         int scale) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  const Constants<C> s = given;  // a copy that no store can change
  if constexpr (shape == Shape::any) {
    for (int64_t i = 0; i < n; ++i) {
      const Word word = is_stochastic(mode) ? in_top_bits<C>(words[i]) : 0;
      to[i] = typename C::Stored(round_element<C, shape>(mode, Word(from[i]), word, s, f, scale));
    }
  } else {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      using Vector = typename V::V;
      const Vector word = is_stochastic(mode) ? V::words(words + i, count) : Vector();
      V::store(to + i, round_element<C, shape>(mode, V::load(from + i, count), word, s, f, scale),
               count);
    });
  }
}

/// What one more element makes of the extremes of its block. `signs`: whether negative elements
/// count apart, in `low`.
template <class C>
inline void widen(Extremes<C>& extremes, typename C::Word raw, bool signs) {
  using Word = typename C::Word;
  const Word magnitude = raw & (C::sign - 1), finite = magnitude < C::infinity ? magnitude : 0;
  Word& end = signs && (raw & C::sign) ? extremes.low : extremes.amax;
  end = greatest_of(end, finite);
  extremes.special = greatest_of(extremes.special, special_of<C>(magnitude));
}

/// The same for a run of elements.
template <class C>
QS_INLINE void widen(Extremes<C>& extremes, const typename C::Stored* from, int64_t n, bool signs) {
  using V = Vectors<C>;
  using Vector = typename V::V;
  const Vector none{};
  Vector amax{}, low{}, most{};
  if (!signs) {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      most = greater<Vector>(most, V::load(from + i, count) & (C::sign - 1));
    });
    const typename C::Word all = greatest_lane(most);
    if (all < C::infinity) {
      extremes.amax = greatest_of(extremes.amax, all);
      return;
    }
  }
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const Vector finite =
        select<Vector>(signed_of(magnitude) < signed_of(none + C::infinity), magnitude, none);
    const Vector minus = signs ? select<Vector>((raw & C::sign) != none, finite, none) : none;
    amax = greater<Vector>(amax, finite ^ minus);
    low = greater<Vector>(low, minus);
    most = greater<Vector>(most, magnitude);
  });
  extremes.amax = greatest_of(extremes.amax, greatest_lane(amax));
  extremes.low = greatest_of(extremes.low, greatest_lane(low));
  extremes.special = greatest_of(extremes.special, special_of<C>(greatest_lane(most)));
}

/// The same for a row of which each element has a block of its own; negative elements do not count
/// apart.
template <class C>
inline void widen_each(typename C::Word* amax, typename C::Word* most,
                       const typename C::Stored* from, int64_t n) {
  using V = Vectors<C>;
  using Vector = typename V::V;
  const Vector none{};
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Vector magnitude = V::load(from + i, count) & (C::sign - 1);
    const Vector finite =
        select<Vector>(signed_of(magnitude) < signed_of(none + C::infinity), magnitude, none);
    const Vector a = V::load_words(amax + i, count), m = V::load_words(most + i, count);
    const Vector wider = greater<Vector>(a, finite), more = greater<Vector>(m, magnitude);
    __builtin_memcpy(amax + i, &wider, count * sizeof(typename C::Word));
    __builtin_memcpy(most + i, &more, count * sizeof(typename C::Word));
  });
}

constexpr int short_table =
    64;  // values up to which it is faster to compare with each step than to search

/// A run of elements rounded to the values of a short table by a deterministic mode.
template <class C>
inline void round_short_table(const typename C::Stored* from, typename C::Stored* to, int64_t n,
                              const Table& t) {
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  const Vector none{};
  Word thresholds[short_table], values[short_table];
  for (int i = 0; i < t.count; ++i) {
    values[i] = Word(uint64_t(t.values[i])) & (C::sign | (C::sign - 1));
    thresholds[i] = i + 1 < t.count ? Word(uint64_t(t.thresholds[i])) : 0;
  }
  const int last = t.count - 1;
  // Where both ends and both infinities saturate, NaN alone is left to look at.
  const bool saturates = t.above == OverflowResult::to_bound &&
                         t.below == OverflowResult::to_bound &&
                         t.positive_infinity == OverflowResult::to_bound &&
                         t.negative_infinity == OverflowResult::to_bound;
  const Word low = saturates ? Word(0) - C::infinity : Word(uint64_t(t.low));
  const Word high = saturates ? C::infinity : Word(uint64_t(t.high)),
             signs = t.has_negative_zero ? 1 : 0;
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const Vector key = select<Vector>((raw & C::sign) != none, none - magnitude, magnitude);
    Vector bits = none + values[0];
    for (int j = 0; j < last; ++j) {
      bits = select<Vector>(signed_of(key) >= signed_of(none + thresholds[j]), none + values[j + 1],
                            bits);
    }
    const auto beyond =
        (signed_of(key) < signed_of(none + low)) | (signed_of(key) > signed_of(none + high));
    const auto special = beyond | ((bits == none) & (none + signs != none));
    V::store(to + i, bits, count);
    if (!any<Vector>(special)) return;
    for (size_t j = 0; j < size_t(count); ++j) {
      to[i + int64_t(j)] = typename C::Stored(checked_in_table<C>(raw[j], bits[j], t));
    }
  });
}

QS_END
