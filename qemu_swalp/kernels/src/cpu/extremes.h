// Extremes of the blocks of an array on a CPU, from which their scales follow.
#pragma once
#include "common/block_rows.h"
#include "cpu/scale_finder.h"

QS_BEGIN

/// Raises what other threads raise too.
template <class Word>
void raise(Word& to, Word value) {
  Word seen = __atomic_load_n(&to, __ATOMIC_RELAXED);
  while (seen < value && !__atomic_compare_exchange_n(&to, &seen, value, true, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {
  }
}

/// work(segment, columns) for each part of a range of columns that lies in one segment of
/// k columns.
template <class Work>
QS_INLINE void in_segments(Range columns, int64_t k, Work work) {
  for (int64_t segment = columns.first / k, c = columns.first; c < columns.last; ++segment) {
    const int64_t end = least_of((segment + 1) * k, columns.last);
    work(segment, Range{c, end});
    c = end;
  }
}

/// Some rows that follow one another in memory, as one.
struct Strips {
  const BlockRows& blocks;
  int64_t together;  // rows

  Strips(const BlockRows& blocks, bool narrow, Range columns) : blocks(blocks), together(1) {
    constexpr int64_t worthwhile = 256;  // elements
    if (narrow && columns.size() == blocks.columns && blocks.rows_touch())
      together = greatest_of<int64_t>(1, least_of(blocks.most_rows, worthwhile / blocks.columns));
  }

  /// work(where it begins, elements) for the strips of some rows.
  template <class Work>
  QS_INLINE void each(int64_t b, Range rows, Range columns, Work work) const {
    for (int64_t r = rows.first; r < rows.last; r += together) {
      BlockRows::Row at = blocks.row(b, r);
      at.source += columns.first;
      at.target += columns.first;
      at.element += columns.first;
      work(at, least_of(together, rows.last - r) * columns.size());
    }
  }
};

/// Greatest magnitudes of some columns, which are 0 before; whether all elements are finite.
template <class C>
bool find_column_greatest(const BlockRows& blocks, const typename C::Stored* source, int64_t b,
                          Range rows, Range columns, typename Units<C>::Words& greatest) {
  using V = Vectors<C>;
  using Vector = typename V::V;
  Vector all{};
  // Short rows that follow one another are looked at column by column, the others row by row.
  const bool together = Strips(blocks, true, columns).together > 1;
  const int64_t step = together ? rows.size() : 1;
  for (int64_t r = rows.first; r < rows.last; r += step) {
    const typename C::Stored* from = source + blocks.row(b, r).source + columns.first;
    in_vectors<V::count>(columns.size(), [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      typename C::Word* to = &greatest[size_t(i)];
      Vector most = V::load_words(to, count);
      for (int64_t row = 0; row < step; ++row) {
        const Vector x = V::load(from + row * blocks.columns + i, count);
        most = greater<Vector>(most, x & (C::sign - 1));
      }
      all = greater<Vector>(all, most);
      V::store_words(to, most, count);
    });
  }
  return !any<Vector>(signed_of(all) >= signed_of(Vector() + C::infinity));
}

/// Extremes of the blocks of some rows and columns, into `scratch.units`: of each column where
/// blocks are narrower than a vector, all columns of a block alike, else of each block. How many.
template <class C>
int64_t find_extremes(const BlockRows& blocks, const Scaling& scaling,
                      const typename C::Stored* source, int64_t b, Range rows, Range columns,
                      Scratch<C>& scratch) {
  using Word = typename C::Word;
  const int64_t k = blocks.segment, width = columns.size();
  const bool signs = scaling.rule == Rule::minmax, narrow = k < Vectors<C>::count;
  Units<C>& u = scratch.units;
  if (!narrow) {
    const int64_t first = columns.first / k, n = ceiling(columns.last, k) - first;
    u.clear(n);
    const bool by_vectors =
        !signs && blocks.most_rows == 1 && VectorScales<C>::fits(k) && columns.first % k == 0;
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const typename C::Stored* row = source + blocks.row(b, r).source;
      Range left = columns;
      if (by_vectors) {
        // Those with infinities or NaN begin anew.
        const int64_t found =
            find_greatest<C>(row + columns.first, columns.size(), k, u.amax.data());
        bool special = false;
        for (int64_t i = 0; i < found; ++i) special |= u.amax[size_t(i)] >= C::infinity;
        if (special) {
          u.clear(n);
        } else {
          left.first += found * k;
        }
      }
      in_segments(left, k, [&](int64_t segment, Range part) {
        const size_t i = size_t(segment - first);
        Extremes<C> extremes{u.amax[i], u.low[i], u.most[i]};
        widen<C>(extremes, row + part.first, part.size(), signs);
        u.amax[i] = extremes.amax;
        u.low[i] = extremes.low;
        u.most[i] = extremes.special;
      });
    }
    for (int64_t i = 0; i < n; ++i) {
      Word& most = u.most[size_t(i)];
      most = most ? C::infinity + most - 1 : 0;
    }
    return n;
  }
  u.clear(width);
  const bool finite = !signs && find_column_greatest<C>(blocks, source, b, rows, columns, u.amax);
  if (!finite) {
    u.clear(width);
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const typename C::Stored* row = source + blocks.row(b, r).source + columns.first;
      if (signs) {
        widen_each<C, true>(u.amax.data(), u.low.data(), u.most.data(), row, width);
      } else {
        widen_each<C, false>(u.amax.data(), u.low.data(), u.most.data(), row, width);
      }
    }
  }
  const Spread<C> spread(k);
  for (auto* values : {&u.amax, &u.low, &u.most}) {
    if (k > 1 && (values != &u.low || signs)) spread(values->data(), width);
  }
  return width;
}

QS_END
