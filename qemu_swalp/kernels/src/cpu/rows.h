// Runs of elements on a CPU, in vectors.
#pragma once
#include <cstddef>

#include "common/plan.h"
#include "cpu/vector.h"
#include "cpu/words.h"

QS_BEGIN

/// Vectors of a carrier's lanes, and their way from and to memory.
template <class C>
struct Vectors {
  using Lane = typename C::Lane;
  using Stored = typename C::Stored;
  using V = typename VectorOf<Lane>::Type;
  static constexpr int count = sizeof(V) / sizeof(Lane);
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
  /// 32-bit words in the top bits of lanes.
  template <class N>
  static V words(const uint32_t* from, N n) {
    PackedWords packed{};
    __builtin_memcpy(&packed, from, n * sizeof(uint32_t));
    return __builtin_convertvector(packed, V) << (C::width - 32);
  }
  template <class N>
  static V lanes(const Lane* from, N n) {
    V x{};
    __builtin_memcpy(&x, from, n * sizeof(Lane));
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
inline typename C::Lane lane_of_word(uint32_t word) {
  return typename C::Lane(word) << (C::width - 32);
}

/// A run of elements under one scale.
template <class C, Shape shape, class M>
QS_INLINE void round_run(M mode, const typename C::Stored* from, typename C::Stored* to, int64_t n,
                         const uint32_t* words, const Steps<C>& given, const Element& f,
                         int scale) {
  using V = Vectors<C>;
  using Lane = typename C::Lane;
  const Steps<C> s = given;  // a copy that no store can change
  if constexpr (shape == Shape::any) {
    for (int64_t i = 0; i < n; ++i) {
      const Lane word = is_stochastic(mode) ? lane_of_word<C>(words[i]) : 0;
      to[i] = typename C::Stored(round_element<C, shape>(mode, Lane(from[i]), word, s, f, scale));
    }
  } else {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      using Lanes = typename V::V;
      const Lanes word = is_stochastic(mode) ? V::words(words + i, count) : Lanes();
      V::store(to + i, round_element<C, shape>(mode, V::load(from + i, count), word, s, f, scale),
               count);
    });
  }
}

/// What one more element makes of the extremes of its block. `signs`: whether negative elements
/// count apart, in `low`.
template <class C>
inline void widen(Extremes<C>& found, typename C::Lane raw, bool signs) {
  using Lane = typename C::Lane;
  const Lane magnitude = raw & (C::sign - 1), finite = magnitude < C::infinity ? magnitude : 0;
  Lane& end = signs && (raw & C::sign) ? found.low : found.amax;
  end = greatest_of(end, finite);
  found.special = greatest_of(found.special, special_of<C>(magnitude));
}

/// The same for a run of elements.
template <class C>
QS_INLINE void widen(Extremes<C>& found, const typename C::Stored* from, int64_t n, bool signs) {
  using V = Vectors<C>;
  using Lanes = typename V::V;
  const Lanes none{};
  Lanes amax{}, low{}, most{};
  if (!signs) {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      most = greater<Lanes>(most, V::load(from + i, count) & (C::sign - 1));
    });
    const typename C::Lane all = greatest_lane(most);
    if (all < C::infinity) {
      found.amax = greatest_of(found.amax, all);
      return;
    }
  }
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const Lanes finite =
        select<Lanes>(signed_of(magnitude) < signed_of(none + C::infinity), magnitude, none);
    const Lanes minus = signs ? select<Lanes>((raw & C::sign) != none, finite, none) : none;
    amax = greater<Lanes>(amax, finite ^ minus);
    low = greater<Lanes>(low, minus);
    most = greater<Lanes>(most, magnitude);
  });
  found.amax = greatest_of(found.amax, greatest_lane(amax));
  found.low = greatest_of(found.low, greatest_lane(low));
  found.special = greatest_of(found.special, special_of<C>(greatest_lane(most)));
}

/// The same for a row of which each element has a block of its own; negative elements do not count
/// apart.
template <class C>
inline void widen_each(typename C::Lane* amax, typename C::Lane* most,
                       const typename C::Stored* from, int64_t n) {
  using V = Vectors<C>;
  using Lanes = typename V::V;
  const Lanes none{};
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes magnitude = V::load(from + i, count) & (C::sign - 1);
    const Lanes finite =
        select<Lanes>(signed_of(magnitude) < signed_of(none + C::infinity), magnitude, none);
    const Lanes a = V::lanes(amax + i, count), m = V::lanes(most + i, count);
    const Lanes wider = greater<Lanes>(a, finite), more = greater<Lanes>(m, magnitude);
    __builtin_memcpy(amax + i, &wider, count * sizeof(typename C::Lane));
    __builtin_memcpy(most + i, &more, count * sizeof(typename C::Lane));
  });
}

constexpr int short_table =
    64;  // values up to which it is faster to compare with each step than to search

/// A run of elements rounded to the values of a short table by a deterministic mode.
template <class C>
inline void round_short_table(const typename C::Stored* from, typename C::Stored* to, int64_t n,
                              const Table& t) {
  using V = Vectors<C>;
  using Lane = typename C::Lane;
  using Lanes = typename V::V;
  const Lanes none{};
  Lane steps[short_table], values[short_table];
  for (int i = 0; i < t.count; ++i) {
    values[i] = Lane(uint64_t(t.values[i])) & (C::sign | (C::sign - 1));
    steps[i] = i + 1 < t.count ? Lane(uint64_t(t.steps[i])) : 0;
  }
  const int last = t.count - 1;
  // Where both ends and both infinities saturate, NaN alone is left to look at.
  const bool saturates = t.above == Goes::to_bound && t.below == Goes::to_bound &&
                         t.positive_infinity == Goes::to_bound &&
                         t.negative_infinity == Goes::to_bound;
  const Lane low = saturates ? Lane(0) - C::infinity : Lane(uint64_t(t.low));
  const Lane high = saturates ? C::infinity : Lane(uint64_t(t.high)),
             signs = t.has_negative_zero ? 1 : 0;
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes raw = V::load(from + i, count), magnitude = raw & (C::sign - 1);
    const Lanes key = select<Lanes>((raw & C::sign) != none, none - magnitude, magnitude);
    Lanes bits = none + values[0];
    for (int j = 0; j < last; ++j) {
      bits =
          select<Lanes>(signed_of(key) >= signed_of(none + steps[j]), none + values[j + 1], bits);
    }
    const auto beyond =
        (signed_of(key) < signed_of(none + low)) | (signed_of(key) > signed_of(none + high));
    const auto special = beyond | ((bits == none) & (none + signs != none));
    V::store(to + i, bits, count);
    if (!any<Lanes>(special)) return;
    for (size_t j = 0; j < size_t(count); ++j) {
      to[i + int64_t(j)] = typename C::Stored(checked_in_table<C>(raw[j], bits[j], t));
    }
  });
}

QS_END
