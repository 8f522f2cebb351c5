// How the threads of a GPU share an array: a thread block takes a window, some rows and columns of
// a block row, and each of its threads takes packs, neighbours in a row that one access reads.
#pragma once
#include "common/layouts.h"
#include "cuda/packs.h"

QS_BEGIN

constexpr int most_segments = QS_MOST_SEGMENTS;  // of a window

/// work(block row, rows, columns) for the windows of this thread block.
template <class Work>
QS_DEVICE void each_window(const QuantizeCall& call, const BlockRows& blocks, Work work) {
  for (uint64_t w = blockIdx.x; w < call.windows; w += gridDim.x) {
    const uint64_t over = w / call.column_parts, b = over / call.row_parts;
    const int64_t column = int64_t(w % call.column_parts) * call.column_step;
    const int64_t row = int64_t(over % call.row_parts) * call.row_step, rows = blocks.rows(b);
    const Range columns{column, least_of(column + call.column_step, blocks.columns)};
    work(int64_t(b), Range{row, least_of(row + call.row_step, rows)}, columns);
  }
}

/// work(first column, how many) for the packs of some columns that are this thread's.
template <class C, class Work>
QS_DEVICE void each_pack(const QuantizeCall& call, Range columns, Work work) {
  constexpr int size = pack_size<C>;
  const int64_t step = int64_t(call.width) * size;
  for (int64_t c = columns.first + int64_t(threadIdx.x & (call.width - 1)) * size; c < columns.last;
       c += step) {
    work(c, int(least_of<int64_t>(size, columns.last - c)));
  }
}

/// work(row) for the rows of a window that are this thread's.
template <class Work>
QS_DEVICE void each_row(const QuantizeCall& call, const BlockRows& blocks, int64_t block_row,
                        Range rows, Work work) {
  const int side = lead(uint32_t(call.width));  // a shift: the width is a power of two
  for (int64_t r = rows.first + (threadIdx.x >> side); r < rows.last; r += threads >> side) {
    work(blocks.row(block_row, r));
  }
}

QS_END
