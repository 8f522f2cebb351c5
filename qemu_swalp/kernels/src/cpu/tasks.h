// Which elements of an array form a task of a thread on a CPU.
//
// A task is a run of block rows (`common/block_rows.h`), or rows and columns of one.
#pragma once
#include "common/block_rows.h"

QS_BEGIN

/// Enough to hide the cost of a task, few enough to stay in the caches.
constexpr int64_t task_elements = 1 << 15;
/// Columns of a row that are read together: memory comes in pages, and is fetched ahead in streams.
constexpr int64_t least_width = 512;
/// The same where blocks are read many times, and had better be read at once.
constexpr int64_t least_search_width = 128;
/// A block row of more is read twice: for its scales, then to be rounded.
constexpr int64_t one_pass_elements = 1 << 17;

/// The tasks of an array. blocks: whether elements share scales. narrow: whether their blocks are
/// narrower than a vector. searches: whether several scales of each are tried.
class Tasks {
 public:
  Tasks(const BlockRows& b, bool blocks, bool narrow, bool searches) {
    // A task reads whole segments, and enough columns of each row to make good use of the memory
    // that comes with them.
    const int64_t width = least_of(searches ? least_search_width : least_width, b.columns);
    const int64_t least_columns = ceiling(width, b.segment) * b.segment;
    const int64_t all = b.most_rows * b.columns;
    one_pass_ = !blocks || b.most_rows * least_columns <= one_pass_elements;
    if (all <= task_elements) {
      group_ = greatest_of<int64_t>(1, task_elements / greatest_of<int64_t>(1, all));
      count_ = ceiling(b.count, group_);
      return;
    }
    if (one_pass_ && blocks) {
      row_step_ = b.most_rows;
      column_step_ =
          least_columns * greatest_of<int64_t>(1, task_elements / (b.most_rows * least_columns));
    } else {
      // Each task derives the constants of its columns anew: more rows to a task.
      const int64_t elements = narrow ? 4 * task_elements : task_elements;
      column_step_ = least_of(b.columns, task_elements);
      row_step_ = greatest_of<int64_t>(1, elements / column_step_);
    }
    column_parts_ = ceiling(b.columns, column_step_);
    row_parts_ = ceiling(b.most_rows, row_step_);
    count_ = b.count * row_parts_ * column_parts_;
  }

  int64_t count() const { return count_; }

  /// Whether a task holds all of its blocks, so that scales and rounding need one pass.
  bool one_pass() const { return one_pass_; }

  /// work(block row, rows, columns) for what a task holds.
  template <class Work>
  void each(const BlockRows& blocks, int64_t task, Work work) const {
    if (group_) {
      const int64_t last = least_of(blocks.count, (task + 1) * group_);
      for (int64_t b = task * group_; b < last; ++b)
        work(b, Range{0, blocks.rows(b)}, Range{0, blocks.columns});
      return;
    }
    const int64_t column = task % column_parts_ * column_step_, rest = task / column_parts_;
    const int64_t row = rest % row_parts_ * row_step_, b = rest / row_parts_;
    const Range rows{row, least_of(row + row_step_, blocks.rows(b))};
    if (rows.size() > 0)
      work(b, rows, Range{column, least_of(column + column_step_, blocks.columns)});
  }

 private:
  bool one_pass_;
  int64_t group_ = 0;  // block rows of a task; 0: a task is a part of one
  int64_t count_ = 0, row_step_ = 0, column_step_ = 0, row_parts_ = 1, column_parts_ = 1;
};

QS_END
