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
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const typename C::Stored* row = source + blocks.row(b, r).source;
      in_segments(columns, k, [&](int64_t segment, Range part) {
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
  const Strips strips(blocks, narrow, columns);
  u.clear(strips.together * width);
  strips.each(b, rows, columns, [&](BlockRows::Row at, int64_t n) {
    if (signs) {
      widen_each<C, true>(u.amax.data(), u.low.data(), u.most.data(), source + at.source, n);
    } else {
      widen_each<C, false>(u.amax.data(), u.low.data(), u.most.data(), source + at.source, n);
    }
  });
  const Spread<C> spread(k);
  for (auto* values : {&u.amax, &u.low, &u.most}) {
    Word* all = values->data();
    if (values == &u.low && !signs) continue;
    for (int64_t j = 1; j < strips.together; ++j) {
      for (int64_t i = 0; i < width; ++i) all[i] = greatest_of(all[i], all[j * width + i]);
    }
    if (k > 1) spread(all, width);
  }
  return width;
}

QS_END
