// Runs of elements on a CPU, in vectors.
#pragma once
#include <cstddef>
#include <type_traits>
#include <vector>

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
    return in_lanes<V>(load_bytes<Packed>(from, bytes_of<Stored>(n)));
  }
  template <class N>
  static void store(Stored* to, V x, N n) {
    store_bytes(to, in_lanes<Packed>(x), bytes_of<Stored>(n));
  }
  /// 32-bit words in the top bits of words.
  template <class N>
  static V words(const uint32_t* from, N n) {
    const PackedWords packed = load_bytes<PackedWords>(from, bytes_of<uint32_t>(n));
    return in_lanes<V>(packed) << (C::width - 32);
  }
  /// The masked ones less 2^31, as signed words.
  template <class N>
  static V centred_words(const uint32_t* from, uint32_t mask, N n) {
    const PackedWords packed = load_bytes<PackedWords>(from, bytes_of<uint32_t>(n));
    return (in_lanes<V>(packed) & mask) - (Word(1) << 31);
  }
  /// x, and in lanes that are not there `other`.
  template <class N>
  QS_INLINE static V filled(V x, V other, N n) {
    if constexpr (!std::is_same_v<N, size_t>) return x;
    V lanes;
    for (int i = 0; i < count; ++i) lanes[i] = Word(i);
    return select<V>(signed_of(lanes) < signed_of(V() + Word(size_t(n))), x, other);
  }
  template <class N>
  static V load_words(const Word* from, N n) {
    return load_bytes<V>(from, bytes_of<Word>(n));
  }
  template <class N>
  static void store_words(Word* to, V x, N n) {
    store_bytes(to, x, bytes_of<Word>(n));
  }
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

/// A run of elements under one scale. A function of its own: inside others its constants would not
/// stay in registers.
template <class C, Shape shape, class M>
__attribute__((noinline)) void round_run(M mode, const typename C::Stored* from,
                                         typename C::Stored* to, int64_t n, const uint32_t* words,
                                         const Constants<C>& given, const Element& f, int scale) {
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

/// For each two lanes that follow one another in x, then in y, the greater one.
template <class Vector>
QS_INLINE Vector greater_of_pairs(Vector x, Vector y) {
  constexpr int count = sizeof(Vector) / sizeof(word_of<Vector>);
  Vector even, odd;
  for (int i = 0; i < count; ++i) {
    even[i] = word_of<Vector>(2 * i);
    odd[i] = word_of<Vector>(2 * i + 1);
  }
  return greater<Vector>(turned<Vector>(x, y, even), turned<Vector>(x, y, odd));
}

/// The greatest magnitude of each of `blocks` blocks of k elements side by side, a power of two, in
/// as many lanes of each of them. k: a multiple of how many lanes there are.
template <class C, int blocks = Vectors<C>::count>
QS_INLINE typename Vectors<C>::V greatest_of_blocks(const typename C::Stored* from, int64_t k) {
  using V = Vectors<C>;
  using Vector = typename V::V;
  if constexpr (blocks == 1) {
    Vector most{};
    for (int64_t i = 0; i < k; i += V::count) {
      const Vector x = V::load(from + i, Whole<V::count>());
      most = greater<Vector>(most, x & (C::sign - 1));
    }
    return most;
  } else {
    return greater_of_pairs<Vector>(greatest_of_blocks<C, blocks / 2>(from, k),
                                    greatest_of_blocks<C, blocks / 2>(from + blocks / 2 * k, k));
  }
}

/// Greatest magnitudes of the first blocks of k elements of a row, as many as fill vectors. How
/// many.
template <class C>
int64_t find_greatest(const typename C::Stored* from, int64_t n, int64_t k,
                      typename C::Word* greatest) {
  using V = Vectors<C>;
  int64_t block = 0;
  for (; (block + V::count) * k <= n; block += V::count) {
    V::store_words(greatest + block, greatest_of_blocks<C>(from + block * k, k), Whole<V::count>());
  }
  return block;
}

/// The same for a row of which each element has extremes of its own; `most`: its magnitude.
template <class C, bool signs>
inline void widen_each(typename C::Word* amax, typename C::Word* low, typename C::Word* most,
                       const typename C::Stored* from, int64_t n) {
  using V = Vectors<C>;
  using Vector = typename V::V;
  const Vector none{};
  auto raise = [](typename C::Word* to, Vector x, auto count) QS_INLINE_LAMBDA {
    V::store_words(to, greater<Vector>(V::load_words(to, count), x), count);
  };
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const Vector finite =
        select<Vector>(signed_of(magnitude) < signed_of(none + C::infinity), magnitude, none);
    const Vector minus = signs ? select<Vector>((raw & C::sign) != none, finite, none) : none;
    raise(amax + i, finite ^ minus, count);
    if constexpr (signs) raise(low + i, minus, count);
    raise(most + i, magnitude, count);
  });
}

QS_END
