// Which rows of an array have their blocks in common.
//
// The last axis is a row. A block row is all that has the same block index along the other axes:
// some rows, whose columns fall into segments, one for each block.
#pragma once
#include "common/plan.h"

QS_BEGIN

struct Range {
  int64_t first, last;
  QS_FUNCTION int64_t size() const { return last - first; }
};

QS_FUNCTION int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// How many there are.
struct Counts {
  int64_t columns, segment, segments;  // of a row: elements, elements of a block, blocks
  int64_t count, most_rows;            // block rows; rows in one of them
};

QS_FUNCTION Counts counts_of(const Layout& layout) {
  const int outer = layout.axes - 1;
  Counts counts{layout.lengths[outer], layout.extents[outer], 0, 1, 1};
  counts.segments = ceiling(counts.columns, counts.segment);
  for (int a = 0; a < outer; ++a) {
    counts.count *= ceiling(layout.lengths[a], layout.extents[a]);
    counts.most_rows *= least_of(layout.extents[a], layout.lengths[a]);
  }
  return counts;
}

/// The block rows of a layout, which must live as long.
class BlockRows : public Counts {
 public:
  QS_FUNCTION BlockRows(const Layout& layout, const Counts& counts)
      : Counts(counts), layout_(layout), outer_(layout.axes - 1) {}

  /// Where a row of a block row begins.
  struct Row {
    int64_t source, target, element;
  };

  /// Rows in a block row.
  QS_FUNCTION int64_t rows(int64_t block_row) const {
    if (outer_ == 1) return height(0, block_row);
    int64_t product = 1;
    for (int a = outer_ - 1; a >= 0; --a) {
      const int64_t blocks = ceiling(layout_.lengths[a], layout_.extents[a]);
      product *= height(a, block_row % blocks);
      block_row /= blocks;
    }
    return product;
  }

  /// Whether the rows of a block row follow one another in both arrays.
  QS_FUNCTION bool rows_touch() const {
    for (int a = 0; a + 1 < outer_; ++a) {
      if (layout_.extents[a] != 1) return false;
    }
    return outer_ > 0 && layout_.source_strides[outer_ - 1] == columns &&
           layout_.target_strides[outer_ - 1] == columns;
  }

  QS_FUNCTION Row row(int64_t block_row, int64_t index) const {
    if (outer_ == 1) {  // no division
      const int64_t at = block_row * layout_.extents[0] + index;
      return {at * layout_.source_strides[0], at * layout_.target_strides[0], at * columns};
    }
    Row row{0, 0, 0};
    int64_t stride = columns;
    for (int a = outer_ - 1; a >= 0; --a) {
      const int64_t blocks = ceiling(layout_.lengths[a], layout_.extents[a]);
      const int64_t block = block_row % blocks, high = height(a, block);
      const int64_t at = block * layout_.extents[a] + index % high;
      block_row /= blocks;
      index /= high;
      row.source += at * layout_.source_strides[a];
      row.target += at * layout_.target_strides[a];
      row.element += at * stride;
      stride *= layout_.lengths[a];
    }
    return row;
  }

 private:
  QS_FUNCTION int64_t height(int axis, int64_t block) const {
    return least_of(layout_.extents[axis], layout_.lengths[axis] - block * layout_.extents[axis]);
  }

  const Layout& layout_;
  int outer_;
};

QS_END
