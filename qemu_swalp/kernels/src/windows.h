// How the threads of a GPU share an array: a thread block takes a window, some rows and columns of a block row, and each
// of its threads takes packs, neighbours in a row that one access reads.
#pragma once
#include "block_rows.h"

#define QS_DEVICE __device__ __forceinline__

QS_BEGIN

constexpr int threads = 256;      // of a thread block
constexpr int most_segments = 256;  // of a window

/// What a kernel is called with; Python fills it in.
struct Call {
  Plan plan;
  Layout layout;
  Counts counts;
  Random random;
  const void* source;
  void* target;
  void* extremes;     // in two passes: of all blocks
  const void* whole;  // under two levels of scales: the extremes of the array
  int64_t row_step, column_step;  // of a window
  uint32_t row_parts, column_parts, windows;
  int32_t width;  // threads side by side, a power of two
};

/// work(block row, rows, columns) for the windows of this thread block.
template <class Work>
QS_DEVICE void each_window(const Call& call, const BlockRows& blocks, Work work) {
  for (uint32_t w = blockIdx.x; w < call.windows; w += gridDim.x) {
    const uint32_t over = w / call.column_parts, b = over / call.row_parts;
    const int64_t column = int64_t(w % call.column_parts) * call.column_step;
    const int64_t row = int64_t(over % call.row_parts) * call.row_step, rows = blocks.rows(b);
    const Range columns{column, least_of(column + call.column_step, blocks.columns)};
    work(int64_t(b), Range{row, least_of(row + call.row_step, rows)}, columns);
  }
}

/// Elements of a pack.
template <class C>
constexpr int pack_size = C::storage == 16 ? 8 : 4;

template <class C>
struct alignas(pack_size<C> * sizeof(typename C::Stored)) Pack {
  typename C::Stored at[pack_size<C>];
};

/// work(first column, how many) for the packs of some columns that are this thread's.
template <class C, class Work>
QS_DEVICE void each_pack(const Call& call, Range columns, Work work) {
  constexpr int size = pack_size<C>;
  const int64_t step = int64_t(call.width) * size;
  for (int64_t c = columns.first + int64_t(threadIdx.x & (call.width - 1)) * size; c < columns.last; c += step) {
    work(c, int(least_of<int64_t>(size, columns.last - c)));
  }
}

/// work(row) for the rows of a window that are this thread's.
template <class Work>
QS_DEVICE void each_row(const Call& call, const BlockRows& blocks, int64_t block_row, Range rows, Work work) {
  for (int64_t r = rows.first + threadIdx.x / call.width; r < rows.last; r += threads / call.width) {
    work(blocks.row(block_row, r));
  }
}

template <class C>
QS_DEVICE Pack<C> load(const typename C::Stored* from, int count) {
  if (count == pack_size<C> && uint64_t(from) % sizeof(Pack<C>) == 0) return *reinterpret_cast<const Pack<C>*>(from);
  Pack<C> pack{};
  for (int i = 0; i < pack_size<C>; ++i) {
    if (i < count) pack.at[i] = from[i];
  }
  return pack;
}

template <class C>
QS_DEVICE void store(typename C::Stored* to, const Pack<C>& pack, int count) {
  if (count == pack_size<C> && uint64_t(to) % sizeof(Pack<C>) == 0) {
    *reinterpret_cast<Pack<C>*>(to) = pack;
    return;
  }
  for (int i = 0; i < pack_size<C>; ++i) {
    if (i < count) to[i] = pack.at[i];
  }
}

/// Random words of a pack.
template <int size>
struct PackWords {
  uint32_t at[size];
};

/// Those of elements from `first` on, of which `skipped` words of the first block belong to others.
template <int size, int skipped>
QS_DEVICE PackWords<size> words_from(uint64_t first, const Random& random) {
  PackWords<size> found;
  for (int block = 0; block * 4 < size + skipped; ++block) {
    const Words words = philox(uint32_t(first / 4) + uint32_t(block), random);
    for (int j = 0; j < 4; ++j) {
      const int i = block * 4 + j - skipped;
      if (i >= 0 && i < size) found.at[i] = words.at[j];
    }
  }
  return found;
}

template <int size>
QS_DEVICE PackWords<size> pack_words(const Random& random, uint64_t element, int count) {
  if (random.words) {
    PackWords<size> found{};
    for (int i = 0; i < size; ++i) {
      if (i < count) found.at[i] = random.words[element + i];
    }
    return found;
  }
  const uint64_t first = element + random.offset;
  switch (first % 4) {
    case 0: return words_from<size, 0>(first, random);
    case 1: return words_from<size, 1>(first, random);
    case 2: return words_from<size, 2>(first, random);
    default: return words_from<size, 3>(first, random);
  }
}

QS_END
