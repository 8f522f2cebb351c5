// Quantization of arrays on a CPU: what a task does.
#pragma once
#include <vector>

#include "cpu/row_rounder.h"
#include "cpu/tasks.h"

QS_BEGIN

/// A plan and its arrays, in one source dtype.
template <class C>
class Job {
 public:
  using Word = typename C::Word;

  Job(const Plan& plan, const Layout& layout, const Random& random, const void* source,
      void* target, const Given& given = {})
      : plan_(plan),
        given_(given),
        at_(plan, layout, source, target),
        tasks_(at_.blocks, plan.family == Family::block, at_.narrow,
               plan.scaling.top_count > 0 && !given.scales),
        rounder_(at_, random, plan.scaling.top_count && !has_given()) {
    for (int i = 0; !has_given() && i < plan.scaling.top_count; ++i)
      finders_.push_back(ScaleFinder<C>(plan, plan.scaling.tops[i]));
  }
  Job(const Job&) = delete;

  /// Draws these random words from now on.
  void draw(const Random& random) { rounder_.draw(random); }

  int64_t tasks() const { return tasks_.count(); }
  bool one_pass() const { return tasks_.one_pass(); }
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
        widen<C>(extremes, at_.source + at_.blocks.row(b, r).source + columns.first, columns.size(),
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
      if (plan_.family != Family::block) return rounder_.apply(b, rows, columns, scratch);
      if (in_registers()) return rounder_.run_segments(b, columns, scratch);
      // A row of short blocks, by pieces whose scales stay in the nearest cache.
      const int64_t k = at_.blocks.segment;
      const bool in_pieces = at_.narrow && at_.blocks.most_rows == 1;
      const int64_t step = in_pieces ? piece / k * k : columns.size();
      for (int64_t c = columns.first, last; c < columns.last; c = last) {
        last = columns.last - c < step + long_run ? columns.last : c + step;
        run_blocks(b, rows, {c, last}, scratch);
      }
    });
  }

  /// First of two passes: what the scales need, into `extremes` of all blocks.
  void reduce(int64_t task, Scratch<C>& scratch, Extremes<C>* extremes) const {
    const BlockRows& blocks = at_.blocks;
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t n =
          find_extremes<C>(blocks, plan_.scaling, at_.source, b, rows, columns, scratch);
      Extremes<C>* to = extremes + b * blocks.segments + columns.first / blocks.segment;
      for (int64_t i = 0; i < n; i += at_.narrow ? blocks.segment : 1, ++to) {
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
      rounder_.apply(b, rows, columns, scratch);
    });
  }

  int64_t blocks() const { return at_.blocks.count * at_.blocks.segments; }

  /// The scale of a block.
  Scale<C> scale_of(const Extremes<C>& block) const { return at_.finder.scale_of(block, global_); }

  /// The scale that is given for a block, NaN where there is none; `special`: as in `Extremes`.
  Scale<C> given_scale(int64_t block, Word special) const {
    const double given = given_.scales[block * given_.scale_step];
    const bool none = given != given;
    const double scale = none ? 1 : given;
    uint64_t bits;
    __builtin_memcpy(&bits, &scale, sizeof bits);
    const Number<Double> x = number_of_bits<Double>(bits);
    const Word significand = Word(x.significand >> (Double::significand - C::significand));
    const Word zero_point =
        given_.zero_points ? Word(given_.zero_points[block * given_.zero_point_step]) : 0;
    const bool nan = none || is_spoiled<C>(special, plan_.scaling);
    return {x.exponent, {x.exponent, significand}, 0, zero_point, nan, special};
  }

  /// How many tops are tried; 0 where the rule has one.
  int searches() const { return int(finders_.size()); }
  const ScaleFinder<C>& finder(int candidate) const { return finders_[size_t(candidate)]; }
  const GlobalScale& global() const { return global_; }

  /// Adds the squared errors of a task's elements to those of their blocks.
  template <class ScaleOf>
  void add_errors(int64_t task, Scratch<C>& scratch, const Extremes<C>* extremes, ScaleOf scale_of,
                  uint64_t* losses) const {
    const int64_t k = at_.blocks.segment;
    each(task, [&](int64_t b, Range rows, Range columns) {
      const int64_t first = columns.first / k, at = b * at_.blocks.segments + first,
                    n = ceiling(columns.last, k) - first;
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
    const int64_t k = at_.blocks.segment, first = columns.first / k,
                  last = ceiling(columns.last, k), from = b * at_.blocks.segments;
    if (!at_.by_units()) {
      scratch.scales.resize(size_t(last - first));
      for (int64_t i = first; i < last; ++i) scratch.scales[size_t(i - first)] = scale_of(from + i);
      return;
    }
    Units<C>& u = scratch.units;
    u.resize_scales(at_.narrow ? columns.size() : last - first);
    u.infinities = false;
    for (int64_t i = first; i < last; ++i) {
      const Scale<C> scale = scale_of(from + i);
      u.infinities |= scale.special != 0;
      if (!at_.narrow) {
        at_.finder.put(u, i - first, scale);
        continue;
      }
      const int64_t end = least_of((i + 1) * k, columns.last);
      for (int64_t c = greatest_of(i * k, columns.first); c < end; ++c)
        at_.finder.put(u, c - columns.first, scale);
    }
  }

  template <class Work>
  void each(int64_t task, Work work) const {
    tasks_.each(at_.blocks, task, work);
  }

  /// Some rows and columns with all of their blocks.
  void run_blocks(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    const BlockRows& blocks = at_.blocks;
    if (has_given()) {
      run_given(b, rows, columns, scratch);
    } else if (at_.narrow && at_.by_units() && blocks.most_rows == 1 &&
               plan_.scaling.rule != Rule::minmax && !searches()) {
      const auto* from = at_.source + blocks.row(b, rows.first).source + columns.first;
      at_.finder.find_in_row(scratch.units, from, columns.size(), blocks.segment, global_);
    } else {
      const int64_t n =
          find_extremes<C>(blocks, plan_.scaling, at_.source, b, rows, columns, scratch);
      if (searches()) {
        search(b, rows, columns, n, scratch);
      } else {
        find_scales(at_.finder, columns, n, scratch);
      }
    }
    rounder_.apply(b, rows, columns, scratch);
  }

  /// Scales that are given. Where nobody looks at the elements there may be infinities.
  void run_given(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    const BlockRows& blocks = at_.blocks;
    const int64_t from = b * blocks.segments + columns.first / blocks.segment,
                  k = at_.narrow ? blocks.segment : 1;
    std::vector<Word>& special = scratch.special;
    special.assign(size_t(at_.segments_of(columns)), 2);
    if (looks()) {
      find_extremes<C>(blocks, plan_.scaling, at_.source, b, rows, columns, scratch);
      for (size_t i = 0; i < special.size(); ++i)
        special[i] = scratch.units.extremes(int64_t(i) * k).special;
    }
    put_scales(b, columns, scratch,
               [&](int64_t block) { return given_scale(block, special[size_t(block - from)]); });
  }

  /// Scales of the blocks whose extremes are in `scratch`, n units.
  void find_scales(const ScaleFinder<C>& finder, Range columns, int64_t n,
                   Scratch<C>& scratch) const {
    const int64_t k = at_.narrow ? at_.blocks.segment : 1;
    if (at_.by_units()) return finder.find(scratch.units, n, k, global_);
    scratch.scales.resize(size_t(at_.segments_of(columns)));
    for (size_t i = 0; i < scratch.scales.size(); ++i)
      scratch.scales[i] = finder.scale_of(scratch.units.extremes(int64_t(i) * k), global_);
  }

  /// The scales of the least error, of equal ones the first (BLK-17). `columns`: of whole blocks.
  void search(int64_t b, Range rows, Range columns, int64_t n, Scratch<C>& scratch) const {
    Search<C>& best = scratch.search;
    Units<C>& u = scratch.units;
    const int64_t count = at_.segments_of(columns), k = at_.narrow ? at_.blocks.segment : 1;
    const bool by_units = at_.by_units();
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
        if (!by_units) best.scales[size_t(i)] = scratch.scales[size_t(i)];
        for (int64_t j = i * k; by_units && j < least_of((i + 1) * k, n); ++j) {
          best.scale[size_t(j)] = u.scale[size_t(j)];
          best.extra[size_t(j)] = u.extra[size_t(j)];
        }
      }
    }
    scratch.scales = best.scales;
    u.scale = best.scale;
    u.extra = best.extra;
    u.inverted = false;
  }

  /// Squared errors of the blocks of some columns under the scales in `scratch`, rounded to nearest
  /// even.
  void find_errors(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    using Stored = typename C::Stored;
    Search<C>& search = scratch.search;
    const int64_t k = at_.blocks.segment, first = columns.first / k;
    search.loss.assign(size_t(at_.segments_of(columns)), 0);
    rounder_.try_out(
        b, rows, columns, scratch, [&](const Stored* from, const Stored* to, Range part) {
          in_segments(part, k, [&](int64_t segment, Range own) {
            const size_t i = size_t(segment - first);
            const int64_t j = own.first - part.first;
            search.loss[i] += errors_of<C>(from + j, to + j, own.size(), search.unit[i]);
          });
        });
  }

  /// Whether each block is a short run of its own under a power of two: then nothing need be stored
  /// of it.
  bool in_registers() const {
    const BlockRows& blocks = at_.blocks;
    return at_.finder.keeps_powers() && !searches() && !has_given() && blocks.most_rows == 1 &&
           blocks.segment >= Vectors<C>::count && blocks.segment <= piece;
  }

  const Plan& plan_;
  Given given_;
  Blocked<C> at_;
  Tasks tasks_;
  RowRounder<C> rounder_;
  std::vector<ScaleFinder<C>> finders_;  // of the tops that are tried
  GlobalScale global_{};
};

QS_END
