// Extremes of the blocks of an array on a CPU, from which their scales follow.
#pragma once
#include "common/block_rows.h"
#include "cpu/scratch.h"

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

/// Extremes of the blocks of some rows and columns where each column is a block.
template <class C>
void find_each_extreme(const BlockRows& blocks, const typename C::Stored* source, int64_t b,
                       Range rows, Range columns, Scratch<C>& scratch) {
  const size_t n = size_t(columns.size());
  scratch.amax.assign(n, 0);
  scratch.most.assign(n, 0);
  for (int64_t r = rows.first; r < rows.last; ++r) {
    widen_each<C>(scratch.amax.data(), scratch.most.data(),
                  source + blocks.row(b, r).source + columns.first, columns.size());
  }
  for (size_t i = 0; i < n; ++i)
    scratch.extremes[i] = {scratch.amax[i], 0, special_of<C>(scratch.most[i])};
}

/// Extremes of the blocks of some rows and columns, into `scratch`, whose scales get the size.
template <class C>
void find_extremes(const BlockRows& blocks, const Scaling& scaling,
                   const typename C::Stored* source, int64_t b, Range rows, Range columns,
                   Scratch<C>& scratch) {
  const int64_t k = blocks.segment, first = columns.first / k;
  scratch.extremes.assign(size_t(ceiling(columns.last, k) - first), Extremes<C>{});
  scratch.scales.resize(scratch.extremes.size());
  const bool signs = scaling.rule == Rule::minmax;
  if (k == 1 && !signs) {
    find_each_extreme<C>(blocks, source, b, rows, columns, scratch);
  } else {
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const typename C::Stored* row = source + blocks.row(b, r).source;
      if (k < Vectors<C>::count) {
        for (int64_t c = columns.first; c < columns.last; ++c) {
          widen<C>(scratch.extremes[size_t(c / k - first)], typename C::Word(row[c]), signs);
        }
      } else {
        in_segments(columns, k, [&](int64_t segment, Range part) {
          widen<C>(scratch.extremes[size_t(segment - first)], row + part.first, part.size(), signs);
        });
      }
    }
  }
}

QS_END
