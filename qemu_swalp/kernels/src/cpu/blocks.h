// Quantization of arrays on a CPU: which elements form a task, and what a task does.
//
// A task is a run of block rows (`block_rows.h`), or rows and columns of one.
#pragma once
#include <type_traits>
#include <vector>

#include "common/block_rows.h"
#include "cpu/scaled_rows.h"

QS_BEGIN

constexpr int64_t task_elements =
    1 << 15;  // enough to hide the cost of a task, few enough to stay in the caches
constexpr int64_t least_width = 64;
constexpr int64_t fused_elements =
    1 << 17;  // a block row of more is read twice: for its scales, then to be rounded

/// Scales of consecutive columns under blocks narrower than a vector: one `Steps` field after the
/// other, by column.
template <class C>
struct ColumnSteps {
  using V = Vectors<C>;
  using Lane = typename C::Lane;
  static constexpr int fields = 11;
  std::vector<Lane> at;
  int64_t columns = 0;
  bool saturating = true;
  Steps<C> shared;

  void set(int64_t n) {
    columns = n;
    saturating = true;
    at.resize(size_t(n) * fields);
  }
  void put(int64_t column, const Steps<C>& s) {
    const Lane all[fields] = {s.knee,
                              s.floor,
                              s.tiny,
                              s.least,
                              s.bound,
                              s.negative_bound,
                              s.above,
                              s.below,
                              s.positive_infinity,
                              s.negative_infinity,
                              s.zero};
    for (int i = 0; i < fields; ++i) at[size_t(i * columns + column)] = all[i];
    shared = s;
  }
  template <class N>
  Steps<C, typename V::V> get(int64_t column, N n) const {
    auto field = [&](int i) { return V::lanes(&at[size_t(i * columns + column)], n); };
    return {
        field(0),   field(1), field(2), field(3),  field(4),      field(5),    field(6),
        field(7),   field(8), field(9), field(10), shared.normal, shared.sign, shared.negative_zero,
        shared.kept};
  }
};

/// work(mode) with a mode that the compiler knows.
template <class Work>
inline void with_mode(Mode mode, Work work) {
  switch (mode) {
    case Mode::nearest_even:
      return work(Known<Mode::nearest_even>());
    case Mode::nearest_away:
      return work(Known<Mode::nearest_away>());
    case Mode::toward_zero:
      return work(Known<Mode::toward_zero>());
    case Mode::toward_positive:
      return work(Known<Mode::toward_positive>());
    case Mode::toward_negative:
      return work(Known<Mode::toward_negative>());
    case Mode::to_odd:
      return work(Known<Mode::to_odd>());
    case Mode::stochastic_a:
      return work(Known<Mode::stochastic_a>());
    case Mode::stochastic_b:
      return work(Known<Mode::stochastic_b>());
    case Mode::stochastic_c:
      return work(Known<Mode::stochastic_c>());
  }
}

/// `Steps` by the power of the scale, each made when it is first met: blocks share few powers.
template <class C>
class StepsByPower {
 public:
  struct Entry {
    int power;
    Shape shape, finite_shape;
    Steps<C> steps;
    Shape shape_for(bool special) const { return special ? shape : finite_shape; }
  };

  const Entry& get(const Element& f, int power) {
    if (of_ != &f) {
      of_ = &f;
      entries_.assign(count, Entry{none, Shape::any, Shape::any, {}});
    }
    Entry& entry = entries_[unsigned(power) % count];
    if (entry.power != power) {
      entry = {power, shape_of<C>(f, power, true), shape_of<C>(f, power, false),
               steps_of<C>(f, power)};
    }
    return entry;
  }

 private:
  static constexpr unsigned count = 256;
  static constexpr int none = 1 << 30;
  const Element* of_ = nullptr;
  std::vector<Entry> entries_;
};

/// Working memory of a thread.
template <class C>
struct Scratch {
  WordBuffer words;
  std::vector<Extremes<C>> extremes;
  std::vector<typename C::Lane> amax, most;
  std::vector<Scale<C>> scales;
  StepsByPower<C> by_power;
  ColumnSteps<C> steps;
};

/// A plan and its arrays, in one carrier.
template <class C>
class Job {
 public:
  using Lane = typename C::Lane;
  using Stored = typename C::Stored;

  Job(const Plan& plan, const Layout& layout, const Random& random, const void* source,
      void* target)
      : plan_(plan),
        random_(random),
        blocks_(layout, counts_of(layout)),
        source_(static_cast<const Stored*>(source)),
        target_(static_cast<Stored*>(target)),
        steps_(steps_of<C>(plan.element, 0)),
        steps32_(steps_of<Single>(plan.element32, 0)),
        shape_(shape_of<C>(plan.element, 0, true)),
        shape32_(shape_of<Single>(plan.element32, 0, true)),
        finite_shape32_(shape_of<Single>(plan.element32, 0, false)) {
    const BlockRows& b = blocks_;
    // A task reads whole segments, and enough columns of each row to make good use of the memory
    // that comes with them.
    const int64_t least_columns =
        ceiling(least_of<int64_t>(least_width, b.columns), b.segment) * b.segment;
    const int64_t all = b.most_rows * b.columns;
    fused_ = plan.family != Family::block || b.most_rows * least_columns <= fused_elements;
    if (all <= task_elements) {
      group_ = greatest_of<int64_t>(1, task_elements / greatest_of<int64_t>(1, all));
      tasks_ = ceiling(b.count, group_);
      return;
    }
    group_ = 0;
    if (fused_ && plan.family == Family::block) {
      row_step_ = b.most_rows;
      column_step_ =
          least_columns * greatest_of<int64_t>(1, task_elements / (b.most_rows * least_columns));
    } else {
      // Steps of each column are made anew in each task: more rows to a task.
      const int64_t elements = narrow() ? 4 * task_elements : task_elements;
      column_step_ = least_of(b.columns, task_elements);
      row_step_ = greatest_of<int64_t>(1, elements / column_step_);
    }
    column_parts_ = ceiling(b.columns, column_step_);
    row_parts_ = ceiling(b.most_rows, row_step_);
    tasks_ = b.count * row_parts_ * column_parts_;
  }

  /// Takes these random words from now on.
  void draw(const Random& random) { random_ = random; }

  int64_t tasks() const { return tasks_; }
  bool fused() const { return fused_; }
  bool two_level() const {
    return plan_.family == Family::block && is_two_level(plan_.scaling.rule);
  }

  /// Raises `whole` to the greatest finite magnitude of a task's elements.
  void find_whole(int64_t task, Lane& whole) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      Extremes<C> found{};
      for (int64_t r = rows.first; r < rows.last; ++r) {
        widen<C>(found, source_ + blocks_.row(b, r).source + columns.first, columns.size(), false);
      }
      raise(whole, found.amax);
    });
  }
  /// Of all elements, which blocks under two levels of scales need.
  void set_whole(Lane whole) { above_ = above_blocks(to_binary32<C>(whole), plan_.scaling); }

  /// All of a task at once.
  void run(int64_t task, Scratch<C>& scratch) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      if (plan_.family != Family::block) return apply(b, rows, columns, scratch);
      if (in_registers()) return run_segments(b, columns, scratch);
      find(b, rows, columns, scratch);
      find_scales(scratch);
      apply(b, rows, columns, scratch);
    });
  }

  /// First of two passes: what the scales need, into `extremes` of all blocks.
  void reduce(int64_t task, Scratch<C>& scratch, Extremes<C>* extremes) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      find(b, rows, columns, scratch);
      Extremes<C>* to = extremes + b * blocks_.segments + columns.first / blocks_.segment;
      for (size_t i = 0; i < scratch.extremes.size(); ++i) {
        raise(to[i].amax, scratch.extremes[i].amax);
        raise(to[i].low, scratch.extremes[i].low);
        raise(to[i].special, scratch.extremes[i].special);
      }
    });
  }

  /// Second of two passes.
  void round(int64_t task, Scratch<C>& scratch, const Scale<C>* scales) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t first = columns.first / blocks_.segment,
                    last = ceiling(columns.last, blocks_.segment);
      const Scale<C>* from = scales + b * blocks_.segments;
      scratch.scales.assign(from + first, from + last);
      apply(b, rows, columns, scratch);
    });
  }

  int64_t blocks() const { return blocks_.count * blocks_.segments; }

  /// Between the two: scales of all blocks.
  std::vector<Scale<C>> scales(const std::vector<Extremes<C>>& extremes) const {
    std::vector<Scale<C>> found(extremes.size());
    for (size_t i = 0; i < found.size(); ++i)
      found[i] = scale_of<C>(extremes[i], above_, plan_.element, plan_.scaling);
    return found;
  }

 private:
  template <class Work>
  void each(int64_t task, Work work) const {
    if (group_) {
      const int64_t last = least_of(blocks_.count, (task + 1) * group_);
      for (int64_t b = task * group_; b < last; ++b)
        work(b, Range{0, blocks_.rows(b)}, Range{0, blocks_.columns});
      return;
    }
    const int64_t column = task % column_parts_ * column_step_, rest = task / column_parts_;
    const int64_t row = rest % row_parts_ * row_step_, b = rest / row_parts_;
    const Range rows{row, least_of(row + row_step_, blocks_.rows(b))};
    if (rows.size() > 0)
      work(b, rows, Range{column, least_of(column + column_step_, blocks_.columns)});
  }

  static void raise(Lane& to, Lane value) {
    Lane seen = __atomic_load_n(&to, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(&to, &seen, value, true, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
    }
  }

  /// Whether blocks are narrower than a vector, under scales that are powers of two.
  bool narrow() const {
    return plan_.family == Family::block && is_power(plan_.scaling.rule) &&
           blocks_.segment < Vectors<C>::count;
  }

  /// Whether each block is a short run of its own under a power of two: then nothing need be kept
  /// of it.
  bool in_registers() const {
    return is_power(plan_.scaling.rule) && blocks_.most_rows == 1 &&
           blocks_.segment >= Vectors<C>::count && blocks_.segment <= piece;
  }

  /// Scales and rounding of such blocks. All scales of a piece come first: each takes long, but not
  /// from the next.
  void run_segments(int64_t b, Range columns, Scratch<C>& scratch) const {
    constexpr int spread = 1 << 30;
    const BlockRows::Row at = blocks_.row(b, 0);
    const int64_t k = blocks_.segment, step = piece / k * k;
    with_mode(plan_.mode, [&](auto mode) {
      for (int64_t c = columns.first; c < columns.last; c += step) {
        const int64_t size = least_of(step, columns.last - c);
        const Stored* from = source_ + at.source + c;
        Stored* to = target_ + at.target + c;
        int powers[piece / Vectors<C>::count];
        bool special[piece / Vectors<C>::count];
        for (int64_t i = 0, block = 0; i < size; i += k, ++block) {
          Extremes<C> found{};
          widen<C>(found, from + i, least_of(k, size - i), false);
          special[block] = found.special;
          powers[block] = is_spoiled<C>(found.special, plan_.scaling)
                              ? spread
                              : power_of<C>(found.amax, plan_.element, plan_.scaling);
        }
        const uint32_t* words = nullptr;
        if (is_stochastic(mode))
          words = scratch.words.fill(random_, uint64_t(at.element + c), int(size));
        for (int64_t i = 0, block = 0; i < size; i += k, ++block) {
          const int64_t n = least_of(k, size - i);
          if (powers[block] == spread) {
            for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
            continue;
          }
          const auto& entry = scratch.by_power.get(plan_.element, powers[block]);
          round(mode, from + i, to + i, n, words ? words + i : nullptr, entry.steps, powers[block],
                entry.shape_for(special[block]));
        }
      }
    });
  }

  /// The scales of blocks whose extremes are in `scratch`.
  void find_scales(Scratch<C>& scratch) const {
    const std::vector<Extremes<C>>& blocks = scratch.extremes;
    if (!two_level()) {
      for (size_t i = 0; i < blocks.size(); ++i) {
        scratch.scales[i] = scale_of<C>(blocks[i], above_, plan_.element, plan_.scaling);
      }
      return;
    }
    in_vectors<vector_bytes / 4>(int64_t(blocks.size()), [&](int64_t first, auto count) {
      const auto at = &blocks[size_t(first)];
      Vector32 amax{};
      for (size_t i = 0; i < size_t(count); ++i) amax[i] = to_binary32<C>(at[i].amax);
      const TwoLevels<Vector32> found = two_levels<Vector32>(amax, above_, plan_.scaling);
      for (size_t i = 0; i < size_t(count); ++i) {
        scratch.scales[size_t(first) + i] =
            scale_of_two<C>(found.scale[i], found.inverse[i], at[i].special, plan_.scaling);
      }
    });
  }

  /// Extremes of the blocks of some rows and columns.
  void find(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    const int64_t k = blocks_.segment, first = columns.first / k;
    scratch.extremes.assign(size_t(ceiling(columns.last, k) - first), Extremes<C>{});
    scratch.scales.resize(scratch.extremes.size());
    const bool signs = plan_.scaling.rule == Rule::minmax;
    if (k == 1 && !signs) {
      find_each(b, rows, columns, scratch);
    } else {
      for (int64_t r = rows.first; r < rows.last; ++r) {
        const Stored* row = source_ + blocks_.row(b, r).source;
        if (k < Vectors<C>::count) {
          for (int64_t c = columns.first; c < columns.last; ++c) {
            widen<C>(scratch.extremes[size_t(c / k - first)], Lane(row[c]), signs);
          }
        } else {
          in_segments(columns, [&](int64_t segment, Range part) {
            widen<C>(scratch.extremes[size_t(segment - first)], row + part.first, part.size(),
                     signs);
          });
        }
      }
    }
  }

  void find_each(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    const size_t n = size_t(columns.size());
    scratch.amax.assign(n, 0);
    scratch.most.assign(n, 0);
    for (int64_t r = rows.first; r < rows.last; ++r) {
      widen_each<C>(scratch.amax.data(), scratch.most.data(),
                    source_ + blocks_.row(b, r).source + columns.first, columns.size());
    }
    for (size_t i = 0; i < n; ++i)
      scratch.extremes[i] = {scratch.amax[i], 0, special_of<C>(scratch.most[i])};
  }

  /// work(segment, columns) for each part of a range of columns that lies in one segment.
  template <class Work>
  QS_INLINE void in_segments(Range columns, Work work) const {
    const int64_t k = blocks_.segment;
    for (int64_t segment = columns.first / k, c = columns.first; c < columns.last; ++segment) {
      const int64_t end = least_of((segment + 1) * k, columns.last);
      work(segment, Range{c, end});
      c = end;
    }
  }

  /// Rounds some rows and columns, whose scales are in `scratch`.
  void apply(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    const bool by_columns = narrow() && prepare(columns, scratch),
               saturating = scratch.steps.saturating;
    with_mode(plan_.mode, [&](auto mode) {
      for (int64_t r = rows.first; r < rows.last; ++r) {
        const BlockRows::Row at = blocks_.row(b, r);
        for (int64_t c = columns.first; c < columns.last; c += piece) {
          const Range part{c, least_of(c + piece, columns.last)};
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + c), int(part.size()));
          const Stored* from = source_ + at.source + c;
          Stored* to = target_ + at.target + c;
          if (plan_.family == Family::table) {
            round_table(from, to, part.size(), words);
          } else if (plan_.family == Family::element) {
            round(mode, from, to, part.size(), words, steps_, 0, shape_);
          } else if (by_columns) {
            if (saturating) {
              round_columns<Shape::saturating>(mode, from, to, part.size(), words, scratch.steps,
                                               c - columns.first);
            } else {
              round_columns<Shape::regular>(mode, from, to, part.size(), words, scratch.steps,
                                            c - columns.first);
            }
          } else {
            round_segments(mode, from, to, part, columns.first, words, scratch);
          }
        }
      }
    });
  }

  template <class M>
  QS_INLINE void round(M mode, const Stored* from, Stored* to, int64_t n, const uint32_t* words,
                       const Steps<C>& s, int scale, Shape shape) const {
    if (shape == Shape::saturating) {
      round_run<C, Shape::saturating>(mode, from, to, n, words, s, plan_.element, scale);
    } else if (shape == Shape::regular) {
      round_run<C, Shape::regular>(mode, from, to, n, words, s, plan_.element, scale);
    } else {
      round_any(from, to, n, words, s, scale);
    }
  }

  void round_any(const Stored* from, Stored* to, int64_t n, const uint32_t* words,
                 const Steps<C>& s, int scale) const {
    round_run<C, Shape::any>(plan_.mode, from, to, n, words, s, plan_.element, scale);
  }

  void round_table(const Stored* from, Stored* to, int64_t n, const uint32_t* words) const {
    if (!words && plan_.table.count <= short_table)
      return round_short_table<C>(from, to, n, plan_.table);
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t word = words ? uint64_t(words[i]) << 32 : 0;
      to[i] = Stored(round_to_table<C>(plan_.mode, Lane(from[i]), word, plan_.table));
    }
  }

  /// Elements of some columns; `origin`: the column of the first scale's segment.
  template <class M>
  QS_INLINE void round_segments(M mode, const Stored* from, Stored* to, Range columns,
                                int64_t origin, const uint32_t* words, Scratch<C>& scratch) const {
    const int64_t first = origin / blocks_.segment;
    in_segments(columns, [&](int64_t segment, Range part) {
      const Scale<C>& scale = scratch.scales[size_t(segment - first)];
      const int64_t i = part.first - columns.first, n = part.size();
      const uint32_t* own = words ? words + i : nullptr;
      if (scale.nan) {
        for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
      } else if (is_power(plan_.scaling.rule)) {
        const auto& entry = scratch.by_power.get(plan_.element, scale.power);
        round(mode, from + i, to + i, n, own, entry.steps, scale.power,
              entry.shape_for(scale.special));
      } else {
        round_by(mode, scale, from + i, to + i, n, own);
      }
    });
  }

  /// A run of elements under a scale that is no power of two.
  template <class M>
  QS_INLINE void round_by(M mode, const Scale<C>& scale, const Stored* from, Stored* to, int64_t n,
                          const uint32_t* words) const {
    const Rule rule = plan_.scaling.rule;
    auto slow = [&](int64_t i) {
      const Lane word = words ? lane_of_word<C>(words[i]) : 0;
      return Stored(round_scaled<C>(plan_.mode, Lane(from[i]), word, scale, steps_, steps32_,
                                    plan_.element, rule));
    };
    if constexpr (C::width == 32) {
      const Number<Single> number = {scale.number.exponent, scale.number.significand};
      const Element& f = plan_.element32;
      auto run = [&](auto shape, const Steps<Single>& s) {
        constexpr Shape known = decltype(shape)::value;
        if (is_published(rule)) {
          round_published_run<C, known>(mode, from, to, n, words, number, scale.inverse, s, f);
        } else {
          round_quotient_run<C, known>(mode, from, to, n, words, number, s, f, slow);
        }
      };
      const Shape shape32 = scale.special ? shape32_ : finite_shape32_;
      const bool takes =
          is_published(rule) ? shape32 != Shape::any : takes_quotients(f) && takes_scale(number);
      using Saturating = std::integral_constant<Shape, Shape::saturating>;
      using Regular = std::integral_constant<Shape, Shape::regular>;
      if (takes && shape32 == Shape::saturating) {
        return run(Saturating(), rule == Rule::minmax
                                     ? with_zero_point(steps32_, f, scale.zero_point)
                                     : steps32_);
      }
      if (takes && rule != Rule::minmax && C::storage == 32) return run(Regular(), steps32_);
    }
    for (int64_t i = 0; i < n; ++i) to[i] = slow(i);
  }

  /// Steps of each column; false where one of them needs Shape::any or is NaN throughout.
  bool prepare(Range columns, Scratch<C>& scratch) const {
    scratch.steps.set(columns.size());
    const int64_t k = blocks_.segment, first = columns.first / k;
    for (int64_t c = columns.first; c < columns.last; ++c) {
      const Scale<C>& scale = scratch.scales[size_t(c / k - first)];
      if (scale.nan) return false;
      const auto& entry = scratch.by_power.get(plan_.element, scale.power);
      const Shape shape = entry.shape_for(scale.special);
      if (shape == Shape::any) return false;
      scratch.steps.saturating &= shape == Shape::saturating;
      scratch.steps.put(c - columns.first, entry.steps);
    }
    return true;
  }

  template <Shape shape, class M>
  QS_INLINE void round_columns(M mode, const Stored* from, Stored* to, int64_t n,
                               const uint32_t* words, const ColumnSteps<C>& steps,
                               int64_t first) const {
    using V = Vectors<C>;
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      const typename V::V word = is_stochastic(mode) ? V::words(words + i, count) : typename V::V();
      V::store(to + i,
               round_element<C, shape>(mode, V::load(from + i, count), word,
                                       steps.get(first + i, count), plan_.element, 0),
               count);
    });
  }

  const Plan& plan_;
  Random random_;
  BlockRows blocks_;
  const Stored* source_;
  Stored* target_;
  Steps<C> steps_;
  Steps<Single> steps32_;
  Shape shape_, shape32_, finite_shape32_;
  Above above_{};
  bool fused_;
  int64_t group_ = 0, tasks_ = 0, row_step_ = 0, column_step_ = 0, row_parts_ = 1,
          column_parts_ = 1;
};

/// All of a job. each(work): work(task, scratch) for all tasks, before it returns.
template <class C, class Each>
void run_all(Job<C>& job, Each each) {
  if (job.two_level()) {
    typename C::Lane whole = 0;
    each([&](int64_t task, Scratch<C>&) { job.find_whole(task, whole); });
    job.set_whole(whole);
  }
  if (job.fused()) return each([&](int64_t task, Scratch<C>& scratch) { job.run(task, scratch); });
  std::vector<Extremes<C>> extremes(size_t(job.blocks()), Extremes<C>{});
  each([&](int64_t task, Scratch<C>& scratch) { job.reduce(task, scratch, extremes.data()); });
  const std::vector<Scale<C>> scales = job.scales(extremes);
  each([&](int64_t task, Scratch<C>& scratch) { job.round(task, scratch, scales.data()); });
}

QS_END
