// Quantization of arrays on a CPU: what a task does.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "cpu/errors.h"
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
      void* target, const Given& given = {})
      : plan_(plan),
        random_(random),
        given_(given),
        blocks_(layout, counts_of(layout)),
        finder_(plan),
        narrow_(plan.family == Family::block && blocks_.segment < Vectors<C>::count),
        tasks_(blocks_, plan.family == Family::block, narrow_),
        source_(static_cast<const Stored*>(source)),
        target_(static_cast<Stored*>(target)),
        rounder_(plan) {
    if (plan.scaling.top_count && !has_given()) trial_ = std::make_unique<Trial<C>>(plan);
    for (int i = 0; trial_ && i < plan.scaling.top_count; ++i)
      finders_.push_back(ScaleFinder<C>(plan, plan.scaling.tops[i]));
  }

  /// Draws these random words from now on.
  void draw(const Random& random) { random_ = random; }

  int64_t tasks() const { return tasks_.count(); }
  bool one_pass() const { return tasks_.one_pass() && !has_given(); }
  bool two_level() const {
    return plan_.family == Family::block && is_two_level(plan_.scaling.rule);
  }
  bool has_given() const { return given_.scales != nullptr; }
  /// Whether scales follow from what the blocks hold.
  bool looks() const { return !has_given() || plan_.scaling.spoiled_from <= 2; }

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

  /// Second of two passes. scale_of(block): its scale.
  template <class ScaleOf>
  void round(int64_t task, Scratch<C>& scratch, ScaleOf scale_of) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      put_scales(b, columns, scratch, scale_of);
      apply(b, rows, columns, scratch);
    });
  }

  int64_t blocks() const { return blocks_.count * blocks_.segments; }

  /// The scale of a block.
  Scale<C> scale_of(const Extremes<C>& block) const { return finder_.scale_of(block, global_); }

  /// The scale that is given for a block; `special`: as in `Extremes`.
  Scale<C> given_scale(int64_t block, Word special) const {
    const double scale = given_.scales[block * given_.scale_step];
    uint64_t bits;
    __builtin_memcpy(&bits, &scale, sizeof bits);
    const Number<Double> x = number_of_bits<Double>(bits);
    const Word significand = Word(x.significand >> (Double::significand - C::significand));
    const Word zero_point =
        given_.zero_points ? Word(given_.zero_points[block * given_.zero_point_step]) : 0;
    return {
        x.exponent, {x.exponent, significand}, 0, zero_point, is_spoiled<C>(special, plan_.scaling),
        special};
  }

  /// How many tops are tried; 0 where the rule has one.
  int searches() const { return int(finders_.size()); }
  const ScaleFinder<C>& finder(int candidate) const { return finders_[size_t(candidate)]; }
  const GlobalScale& global() const { return global_; }

  /// Adds the squared errors of a task's elements to those of their blocks.
  template <class ScaleOf>
  void add_errors(int64_t task, Scratch<C>& scratch, const Extremes<C>* extremes, ScaleOf scale_of,
                  uint64_t* losses) const {
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t first = columns.first / blocks_.segment, at = b * blocks_.segments + first,
                    n = ceiling(columns.last, blocks_.segment) - first;
      Search<C>& search = scratch.search;
      search.unit.resize(size_t(n));
      for (int64_t i = 0; i < n; ++i) search.unit[size_t(i)] = error_unit<C>(extremes[at + i].amax);
      put_scales(b, columns, scratch, scale_of);
      find_errors(b, rows, columns, scratch);
      for (int64_t i = 0; i < n; ++i)
        __atomic_fetch_add(&losses[at + i], search.loss[size_t(i)], __ATOMIC_RELAXED);
    });
  }

 private:
  /// Scales of the blocks of some columns, into `scratch`.
  template <class ScaleOf>
  void put_scales(int64_t b, Range columns, Scratch<C>& scratch, ScaleOf scale_of) const {
    const int64_t first = columns.first / blocks_.segment,
                  last = ceiling(columns.last, blocks_.segment), from = b * blocks_.segments;
    if (!by_units()) {
      scratch.scales.resize(size_t(last - first));
      for (int64_t i = first; i < last; ++i) scratch.scales[size_t(i - first)] = scale_of(from + i);
      return;
    }
    const int64_t n = narrow_ ? columns.size() : last - first;
    scratch.units.resize_scales(n);
    scratch.units.infinities = false;
    for (int64_t i = 0; i < n; ++i) {
      const Scale<C> scale =
          scale_of(from + (narrow_ ? (columns.first + i) / blocks_.segment : first + i));
      finder_.put(scratch.units, i, scale);
      scratch.units.infinities |= scale.special != 0;
    }
  }

  template <class Work>
  void each(int64_t task, Work work) const {
    tasks_.each(blocks_, task, work);
  }

  /// Some rows and columns with all of their blocks.
  void run_blocks(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    if (narrow_ && by_units() && blocks_.most_rows == 1 && plan_.scaling.rule != Rule::minmax &&
        !searches()) {
      const Stored* from = source_ + blocks_.row(b, rows.first).source + columns.first;
      finder_.find_in_row(scratch.units, from, columns.size(), blocks_.segment, global_);
      return apply(b, rows, columns, scratch);
    }
    const int64_t n = find_extremes<C>(blocks_, plan_.scaling, source_, b, rows, columns, scratch);
    if (searches()) {
      search(b, rows, columns, n, scratch);
    } else {
      find_scales(finder_, columns, n, scratch);
    }
    apply(b, rows, columns, scratch);
  }

  /// Scales of the blocks whose extremes are in `scratch`, n units.
  void find_scales(const ScaleFinder<C>& finder, Range columns, int64_t n,
                   Scratch<C>& scratch) const {
    const int64_t k = narrow_ ? blocks_.segment : 1;
    if (by_units()) return finder.find(scratch.units, n, k, global_);
    scratch.scales.resize(size_t(segments_of(columns)));
    for (size_t i = 0; i < scratch.scales.size(); ++i)
      scratch.scales[i] = finder.scale_of(scratch.units.extremes(int64_t(i) * k), global_);
  }

  int64_t segments_of(Range columns) const {
    return ceiling(columns.last, blocks_.segment) - columns.first / blocks_.segment;
  }

  /// The scales of the least error, of equal ones the first (BLK-17). `columns`: of whole blocks.
  void search(int64_t b, Range rows, Range columns, int64_t n, Scratch<C>& scratch) const {
    Search<C>& best = scratch.search;
    Units<C>& u = scratch.units;
    const int64_t count = segments_of(columns), k = narrow_ ? blocks_.segment : 1;
    best.unit.resize(size_t(count));
    for (int64_t i = 0; i < count; ++i) best.unit[size_t(i)] = error_unit<C>(u.amax[size_t(i * k)]);
    for (int candidate = 0; candidate < searches(); ++candidate) {
      find_scales(finder(candidate), columns, n, scratch);
      find_errors(b, rows, columns, scratch);
      if (candidate == 0) {
        best.least = best.loss;
        best.scales = scratch.scales;
        best.scale = u.scale;
        best.extra = u.extra;
        continue;
      }
      for (int64_t i = 0; i < count; ++i) {
        if (best.loss[size_t(i)] >= best.least[size_t(i)]) continue;
        best.least[size_t(i)] = best.loss[size_t(i)];
        if (!by_units()) best.scales[size_t(i)] = scratch.scales[size_t(i)];
        for (int64_t j = i * k; by_units() && j < least_of((i + 1) * k, n); ++j) {
          best.scale[size_t(j)] = u.scale[size_t(j)];
          best.extra[size_t(j)] = u.extra[size_t(j)];
        }
      }
    }
    scratch.scales = best.scales;
    u.scale = best.scale;
    u.extra = best.extra;
  }

  /// Squared errors of the blocks of some columns under the scales in `scratch`, rounded to nearest
  /// even.
  void find_errors(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    Search<C>& search = scratch.search;
    const int64_t count = segments_of(columns), first = columns.first / blocks_.segment;
    search.loss.assign(size_t(count), 0);
    apply(b, rows, columns, scratch, [&](const Stored* from, const Stored* to, Range part) {
      in_segments(part, blocks_.segment, [&](int64_t segment, Range own) {
        const size_t i = size_t(segment - first);
        const int64_t j = own.first - part.first;
        search.loss[i] += errors_of<C>(from + j, to + j, own.size(), search.unit[i]);
      });
    });
  }

  /// Whether elements are rounded under scales of their own columns.
  bool by_units() const { return finder_.vectors() && (narrow_ || !finder_.keeps_powers()); }

  /// Whether each block is a short run of its own under a power of two: then nothing need be stored
  /// of it.
  bool in_registers() const {
    return finder_.keeps_powers() && !searches() && blocks_.most_rows == 1 &&
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
          powers[block] = is_spoiled<C>(extremes.special, plan_.scaling)
                              ? spread
                              : int(signed_of(powers_of<C, Word>(extremes.amax, plan_.scaling)));
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

  /// Rounds some rows and columns, whose scales are in `scratch`. done(from, to, columns), if there
  /// is one: they are rounded to nearest even for it, and not stored.
  using Done = std::function<void(const Stored*, const Stored*, Range)>;
  void apply(int64_t b, Range rows, Range columns, Scratch<C>& scratch,
             const Done& done = {}) const {
    if (plan_.family == Family::block && by_units())
      return apply_units(b, rows, columns, scratch, done);
    const RunRounder<C>& rounder = done ? trial_->rounder : rounder_;
    with_mode(done ? Mode::nearest_even : plan_.mode, [&](auto mode) {
      for (int64_t r = rows.first; r < rows.last; ++r) {
        const BlockRows::Row at = blocks_.row(b, r);
        for (int64_t c = columns.first; c < columns.last; c += piece) {
          const Range part{c, least_of(c + piece, columns.last)};
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + c), int(part.size()));
          const Stored* from = source_ + at.source + c;
          Stored* to = done ? scratch.search.trial : target_ + at.target + c;
          if (plan_.family == Family::table) {
            rounder.round_table(from, to, part.size(), words);
          } else if (plan_.family == Family::element) {
            rounder.round_unscaled(mode, from, to, part.size(), words);
          } else {
            round_segments(mode, rounder, from, to, part, columns.first, words, scratch);
          }
          if (done) done(from, to, part);
        }
      }
    });
  }

  /// The same under the scales of `scratch.units`.
  void apply_units(int64_t b, Range rows, Range columns, Scratch<C>& scratch,
                   const Done& done) const {
    Units<C>& u = scratch.units;
    const RunRounder<C>& rounder = done ? trial_->rounder : rounder_;
    const Strips strips(blocks_, narrow_ && !done, columns);
    if (narrow_) u.repeat_scales(strips.together);
    const bool powers = finder_.keeps_powers();
    if (powers) scratch.columns.set(u.scale.data(), int64_t(u.scale.size()), plan_.element);
    // One for many elements: the compiler takes what follows from it out of the loop.
    const bool uniform = std::is_same_v<C, Single> && !narrow_ &&
                         least_of(blocks_.segment, columns.size()) >= long_run;
    const int64_t first = columns.first / blocks_.segment;
    with_mode(done ? Mode::nearest_even : plan_.mode, [&](auto mode) {
      strips.each(b, rows, columns, [&](BlockRows::Row at, int64_t n) {
        for (int64_t i = 0; i < n; i += piece) {
          const int64_t size = least_of<int64_t>(piece, n - i);
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + i), int(size));
          const Stored* from = source_ + at.source + i;
          Stored* to = done ? scratch.search.trial : target_ + at.target + i;
          const Range part{columns.first + i, columns.first + i + size};
          if (powers) {
            rounder.round_columns(mode, scratch.columns, i, from, to, size, words, u.infinities);
            if (done) done(from, to, part);
            continue;
          }
          if constexpr (std::is_same_v<C, Single>) {
            if (uniform) {
              in_segments(part, blocks_.segment, [&](int64_t segment, Range own) {
                const size_t unit = size_t(segment - first);
                const int64_t j = own.first - part.first;
                const UniformScale<C> run{u.scale[unit], u.extra[unit]};
                rounder.round_scaled_run(mode, run, from + j, to + j, own.size(),
                                         words ? words + j : nullptr, u.infinities);
              });
              if (done) done(from, to, part);
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
          rounder.round_scaled_run(mode, run, from, to, size, words, u.infinities);
          if (done) done(from, to, part);
        }
      });
    });
  }

  /// Elements of some columns; `origin`: the column of the first scale's segment.
  template <class M>
  QS_INLINE void round_segments(M mode, const RunRounder<C>& rounder, const Stored* from,
                                Stored* to, Range columns, int64_t origin, const uint32_t* words,
                                Scratch<C>& scratch) const {
    const int64_t first = origin / blocks_.segment;
    in_segments(columns, blocks_.segment, [&](int64_t segment, Range part) {
      const Scale<C>& scale = scratch.scales[size_t(segment - first)];
      const int64_t i = part.first - columns.first, n = part.size();
      const uint32_t* own = words ? words + i : nullptr;
      if (scale.nan) {
        for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
      } else if (finder_.keeps_powers()) {
        const Element& f = rounder.element();
        const auto& entry = scratch.by_power.get(f, scale.power);
        rounder.round(mode, from + i, to + i, n, own, entry.constants, scale.power,
                      entry.shape_for(scale.special));
      } else {
        rounder.round_by_quotient(scale, from + i, to + i, n, own);
      }
    });
  }

  const Plan& plan_;
  Random random_;
  Given given_;
  BlockRows blocks_;
  ScaleFinder<C> finder_;
  bool narrow_;  // whether blocks are narrower than a vector
  Tasks tasks_;
  const Stored* source_;
  Stored* target_;
  RunRounder<C> rounder_;
  std::unique_ptr<Trial<C>> trial_;
  std::vector<ScaleFinder<C>> finders_;  // of the tops that are tried
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
  std::vector<Extremes<C>> extremes(job.looks() ? size_t(job.blocks()) : 0, Extremes<C>{});
  if (job.looks())
    each([&](int64_t task, Scratch<C>& scratch) { job.reduce(task, scratch, extremes.data()); });
  if (job.has_given()) {
    return each([&](int64_t task, Scratch<C>& scratch) {
      job.round(task, scratch, [&](int64_t block) {
        // Where nobody looked there may be infinities.
        return job.given_scale(block, job.looks() ? extremes[size_t(block)].special : 2);
      });
    });
  }
  std::vector<Scale<C>> scales(extremes.size());
  std::vector<uint64_t> least, losses;
  for (int candidate = 0; candidate < job.searches(); ++candidate) {
    auto scale_of = [&](int64_t block) {
      return job.finder(candidate).scale_of(extremes[size_t(block)], job.global());
    };
    losses.assign(extremes.size(), 0);
    each([&](int64_t task, Scratch<C>& scratch) {
      job.add_errors(task, scratch, extremes.data(), scale_of, losses.data());
    });
    if (candidate == 0) least.assign(extremes.size(), ~uint64_t(0));
    for (size_t i = 0; i < extremes.size(); ++i) {
      if (losses[i] >= least[i]) continue;
      least[i] = losses[i];
      scales[i] = scale_of(int64_t(i));
    }
  }
  for (size_t i = 0; !job.searches() && i < scales.size(); ++i)
    scales[i] = job.scale_of(extremes[i]);
  each([&](int64_t task, Scratch<C>& scratch) {
    job.round(task, scratch, [&](int64_t block) { return scales[size_t(block)]; });
  });
}

QS_END
