// Quantization of arrays on a CPU: what a task does.
#pragma once
#include <vector>

#include "cpu/extremes.h"
#include "cpu/run_rounder.h"
#include "cpu/tasks.h"

QS_BEGIN

constexpr int64_t long_run = 64;  // elements under one scale

/// A plan and its arrays, in one source dtype.
template <class C>
class Job {
 public:
  using Word = typename C::Word;
  using Stored = typename C::Stored;

  Job(const Plan& plan, const Layout& layout, const Random& random, const void* source,
      void* target)
      : plan_(plan),
        random_(random),
        blocks_(layout, counts_of(layout)),
        finder_(plan),
        narrow_(plan.family == Family::block && blocks_.segment < Vectors<C>::count),
        tasks_(blocks_, plan.family == Family::block, narrow_),
        source_(static_cast<const Stored*>(source)),
        target_(static_cast<Stored*>(target)),
        rounder_(plan) {}

  /// Draws these random words from now on.
  void draw(const Random& random) { random_ = random; }

  int64_t tasks() const { return tasks_.count(); }
  bool one_pass() const { return tasks_.one_pass(); }
  bool two_level() const {
    return plan_.family == Family::block && is_two_level(plan_.scaling.rule);
  }

  /// Raises `whole` to the greatest finite magnitude of a task's elements.
  void find_whole(int64_t task, Word& whole) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      Extremes<C> extremes{};
      for (int64_t r = rows.first; r < rows.last; ++r) {
        widen<C>(extremes, source_ + blocks_.row(b, r).source + columns.first, columns.size(),
                 false);
      }
      raise(whole, extremes.amax);
    });
  }
  /// Of all elements, which blocks under two levels of scales need.
  void set_whole(Word whole) { global_ = global_scale_of(to_binary32<C>(whole), plan_.scaling); }

  /// All of a task at once.
  void run(int64_t task, Scratch<C>& scratch) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      if (plan_.family != Family::block) return apply(b, rows, columns, scratch);
      if (in_registers()) return run_segments(b, columns, scratch);
      // A row of short blocks, by pieces whose scales stay in the nearest cache.
      const bool in_pieces = narrow_ && blocks_.most_rows == 1;
      const int64_t step = in_pieces ? piece / blocks_.segment * blocks_.segment : columns.size();
      for (int64_t c = columns.first; c < columns.last; c += step)
        run_blocks(b, rows, {c, least_of(c + step, columns.last)}, scratch);
    });
  }

  /// First of two passes: what the scales need, into `extremes` of all blocks.
  void reduce(int64_t task, Scratch<C>& scratch, Extremes<C>* extremes) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t n =
          find_extremes<C>(blocks_, plan_.scaling, source_, b, rows, columns, scratch);
      Extremes<C>* to = extremes + b * blocks_.segments + columns.first / blocks_.segment;
      for (int64_t i = 0; i < n; i += narrow_ ? blocks_.segment : 1, ++to) {
        const Extremes<C> block = scratch.units.extremes(i);
        raise(to->amax, block.amax);
        raise(to->low, block.low);
        raise(to->special, block.special);
      }
    });
  }

  /// Second of two passes.
  void round(int64_t task, Scratch<C>& scratch, const Scale<C>* scales) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t first = columns.first / blocks_.segment,
                    last = ceiling(columns.last, blocks_.segment);
      const Scale<C>* from = scales + b * blocks_.segments;
      if (by_units()) {
        const int64_t n = narrow_ ? columns.size() : last - first;
        scratch.units.resize_scales(n);
        scratch.units.infinities = false;
        for (int64_t i = 0; i < n; ++i) {
          const Scale<C>& scale = from[narrow_ ? (columns.first + i) / blocks_.segment : first + i];
          finder_.put(scratch.units, i, scale);
          scratch.units.infinities |= scale.special != 0;
        }
      } else {
        scratch.scales.assign(from + first, from + last);
      }
      apply(b, rows, columns, scratch);
    });
  }

  int64_t blocks() const { return blocks_.count * blocks_.segments; }

  /// Between the two: scales of all blocks.
  std::vector<Scale<C>> scales(const std::vector<Extremes<C>>& extremes) const {
    std::vector<Scale<C>> scales(extremes.size());
    for (size_t i = 0; i < scales.size(); ++i)
      scales[i] = scale_of<C>(extremes[i], global_, plan_.element, plan_.scaling);
    return scales;
  }

 private:
  template <class Work>
  void each(int64_t task, Work work) const {
    tasks_.each(blocks_, task, work);
  }

  /// Some rows and columns with all of their blocks.
  void run_blocks(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    if (narrow_ && by_units() && blocks_.most_rows == 1 && plan_.scaling.rule != Rule::minmax) {
      const Stored* from = source_ + blocks_.row(b, rows.first).source + columns.first;
      finder_.find_in_row(scratch.units, from, columns.size(), blocks_.segment, global_);
      return apply(b, rows, columns, scratch);
    }
    const int64_t n = find_extremes<C>(blocks_, plan_.scaling, source_, b, rows, columns, scratch);
    if (by_units()) {
      finder_.find(scratch.units, n, narrow_ ? blocks_.segment : 1, global_);
    } else {
      const int64_t first = columns.first / blocks_.segment;
      scratch.scales.resize(size_t(ceiling(columns.last, blocks_.segment) - first));
      for (size_t i = 0; i < scratch.scales.size(); ++i) {
        scratch.scales[i] =
            scale_of<C>(scratch.units.extremes(int64_t(i) * (narrow_ ? blocks_.segment : 1)),
                        global_, plan_.element, plan_.scaling);
      }
    }
    apply(b, rows, columns, scratch);
  }

  /// Whether elements are rounded under scales of their own columns.
  bool by_units() const { return finder_.vectors() && (narrow_ || !is_power(plan_.scaling.rule)); }

  /// Whether each block is a short run of its own under a power of two: then nothing need be stored
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
          Extremes<C> extremes{};
          widen<C>(extremes, from + i, least_of(k, size - i), false);
          special[block] = extremes.special;
          powers[block] =
              is_spoiled<C>(extremes.special, plan_.scaling)
                  ? spread
                  : int(signed_of(powers_of<C, Word>(extremes.amax, plan_.element, plan_.scaling)));
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
          rounder_.round(mode, from + i, to + i, n, words ? words + i : nullptr, entry.constants,
                         powers[block], entry.shape_for(special[block]));
        }
      }
    });
  }

  /// Rounds some rows and columns, whose scales are in `scratch`.
  void apply(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    if (plan_.family == Family::block && by_units()) return apply_units(b, rows, columns, scratch);
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
            rounder_.round_table(from, to, part.size(), words);
          } else if (plan_.family == Family::element) {
            rounder_.round_unscaled(mode, from, to, part.size(), words);
          } else {
            round_segments(mode, from, to, part, columns.first, words, scratch);
          }
        }
      }
    });
  }

  /// The same under the scales of `scratch.units`.
  void apply_units(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    Units<C>& u = scratch.units;
    const Strips strips(blocks_, narrow_, columns);
    if (narrow_) u.repeat_scales(strips.together);
    const bool powers = is_power(plan_.scaling.rule);
    if (powers) scratch.columns.set(u.scale.data(), int64_t(u.scale.size()), plan_.element);
    // One for many elements: the compiler takes what follows from it out of the loop.
    const bool uniform = std::is_same_v<C, Single> && !narrow_ &&
                         least_of(blocks_.segment, columns.size()) >= long_run;
    const int64_t first = columns.first / blocks_.segment;
    with_mode(plan_.mode, [&](auto mode) {
      strips.each(b, rows, columns, [&](BlockRows::Row at, int64_t n) {
        for (int64_t i = 0; i < n; i += piece) {
          const int64_t size = least_of<int64_t>(piece, n - i);
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + i), int(size));
          const Stored* from = source_ + at.source + i;
          Stored* to = target_ + at.target + i;
          if (powers) {
            rounder_.round_columns(mode, scratch.columns, i, from, to, size, words, u.infinities);
            continue;
          }
          const Range part{columns.first + i, columns.first + i + size};
          if constexpr (std::is_same_v<C, Single>) {
            if (uniform) {
              in_segments(part, blocks_.segment, [&](int64_t segment, Range own) {
                const size_t unit = size_t(segment - first);
                const int64_t j = own.first - part.first;
                const UniformScale<C> run{u.scale[unit], u.extra[unit]};
                rounder_.round_scaled_run(mode, run, from + j, to + j, own.size(),
                                          words ? words + j : nullptr, u.infinities);
              });
              continue;
            }
          }
          ScaleRun<C> run{u.scale.data() + i, u.extra.data() + i};
          if (!narrow_) {
            in_segments(part, blocks_.segment, [&](int64_t segment, Range own) {
              const size_t unit = size_t(segment - first);
              fill<C>(scratch.scale + (own.first - part.first), u.scale[unit], own.size());
              fill<C>(scratch.extra + (own.first - part.first), u.extra[unit], own.size());
            });
            run = {scratch.scale, scratch.extra};
          }
          rounder_.round_scaled_run(mode, run, from, to, size, words, u.infinities);
        }
      });
    });
  }

  /// Elements of some columns; `origin`: the column of the first scale's segment.
  template <class M>
  QS_INLINE void round_segments(M mode, const Stored* from, Stored* to, Range columns,
                                int64_t origin, const uint32_t* words, Scratch<C>& scratch) const {
    const int64_t first = origin / blocks_.segment;
    in_segments(columns, blocks_.segment, [&](int64_t segment, Range part) {
      const Scale<C>& scale = scratch.scales[size_t(segment - first)];
      const int64_t i = part.first - columns.first, n = part.size();
      const uint32_t* own = words ? words + i : nullptr;
      if (scale.nan) {
        for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
      } else if (is_power(plan_.scaling.rule)) {
        const auto& entry = scratch.by_power.get(plan_.element, scale.power);
        rounder_.round(mode, from + i, to + i, n, own, entry.constants, scale.power,
                       entry.shape_for(scale.special));
      } else {
        rounder_.round_by_quotient(scale, from + i, to + i, n, own);
      }
    });
  }

  const Plan& plan_;
  Random random_;
  BlockRows blocks_;
  ScaleFinder<C> finder_;
  bool narrow_;  // whether blocks are narrower than a vector
  Tasks tasks_;
  const Stored* source_;
  Stored* target_;
  RunRounder<C> rounder_;
  GlobalScale global_{};
};

/// All of a job. each(work): work(task, scratch) for all tasks, before it returns.
template <class C, class Each>
void run_all(Job<C>& job, Each each) {
  if (job.two_level()) {
    typename C::Word whole = 0;
    each([&](int64_t task, Scratch<C>&) { job.find_whole(task, whole); });
    job.set_whole(whole);
  }
  if (job.one_pass())
    return each([&](int64_t task, Scratch<C>& scratch) { job.run(task, scratch); });
  std::vector<Extremes<C>> extremes(size_t(job.blocks()), Extremes<C>{});
  each([&](int64_t task, Scratch<C>& scratch) { job.reduce(task, scratch, extremes.data()); });
  const std::vector<Scale<C>> scales = job.scales(extremes);
  each([&](int64_t task, Scratch<C>& scratch) { job.round(task, scratch, scales.data()); });
}

QS_END
