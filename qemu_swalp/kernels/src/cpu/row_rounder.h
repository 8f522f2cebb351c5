// Rounding of rows and columns on a CPU under scales that a thread's scratch holds.
#pragma once
#include <memory>

#include "cpu/errors.h"
#include "cpu/extremes.h"
#include "cpu/run_rounder.h"

QS_BEGIN

/// A plan, its arrays, and what is known of their blocks.
template <class C>
struct Blocked {
  using Stored = typename C::Stored;
  const Plan& plan;
  BlockRows blocks;
  ScaleFinder<C> finder;
  bool narrow;  // whether blocks are narrower than a vector
  const Stored* source;
  Stored* target;

  Blocked(const Plan& plan, const Layout& layout, const void* source, void* target)
      : plan(plan),
        blocks(layout, counts_of(layout)),
        finder(plan),
        narrow(plan.family == Family::block && blocks.segment < Vectors<C>::count),
        source(static_cast<const Stored*>(source)),
        target(static_cast<Stored*>(target)) {}

  /// Whether elements are rounded under scales of their own columns.
  bool by_units() const {
    const int64_t k = blocks.segment;
    const bool takes_powers = narrow || (VectorScales<C>::fits(k) && k < long_run);
    return finder.vectors() && (takes_powers || !finder.keeps_powers());
  }

  int64_t segments_of(Range columns) const {
    return ceiling(columns.last, blocks.segment) - columns.first / blocks.segment;
  }
};

/// Rounds by the plan; or to see the error, then to nearest even without storing it.
template <class C>
class RowRounder {
 public:
  using Word = typename C::Word;
  using Stored = typename C::Stored;

  RowRounder(const Blocked<C>& at, const Random& random, bool searches)
      : at_(at), random_(random), rounder_(at.plan) {
    if (searches) trial_ = std::make_unique<Trial<C>>(at.plan);
  }

  /// Draws these random words from now on.
  void draw(const Random& random) { random_ = random; }

  void apply(int64_t b, Range rows, Range columns, Scratch<C>& scratch) const {
    apply_by(b, rows, columns, scratch, Nothing());
  }

  /// done(from, to, columns) for elements that were rounded on trial.
  template <class Done>
  void try_out(int64_t b, Range rows, Range columns, Scratch<C>& scratch, Done done) const {
    apply_by(b, rows, columns, scratch, done);
  }

  /// Blocks that are short runs of their own under powers of two, with their scales. All scales of
  /// a piece come first: each takes long, but not from the next.
  void run_segments(int64_t b, Range columns, Scratch<C>& scratch) const {
    using V = Vectors<C>;
    using Vector = typename V::V;
    constexpr int most = piece / V::count;
    const Scaling& scaling = at_.plan.scaling;
    const BlockRows::Row at = at_.blocks.row(b, 0);
    const int64_t k = at_.blocks.segment, step = piece / k * k;
    const bool together = VectorScales<C>::fits(k);
    with_mode(at_.plan.mode, [&](auto mode) {
      for (int64_t c = columns.first; c < columns.last; c += step) {
        const int64_t size = least_of(step, columns.last - c), count = ceiling(size, k);
        const Stored* from = at_.source + at.source + c;
        Stored* to = at_.target + at.target + c;
        Word powers[most];
        bool special[most], spoiled[most], any_special = false;
        const int64_t found = together ? find_greatest<C>(from, size, k, powers) : 0;
        for (int64_t block = 0; block < count; ++block) {
          special[block] = spoiled[block] = false;
          if (block < found && powers[block] < C::infinity) continue;
          Extremes<C> extremes{};
          widen<C>(extremes, from + block * k, least_of(k, size - block * k), false);
          powers[block] = extremes.amax;
          special[block] = extremes.special;
          any_special |= special[block];
          spoiled[block] = is_spoiled<C>(extremes.special, scaling);
        }
        in_vectors<V::count>(count, [&](int64_t i, auto lanes) {
          const Vector amax = V::load_words(powers + i, lanes);
          V::store_words(powers + i, powers_of<C, Vector>(amax, scaling), lanes);
        });
        const uint32_t* words = nullptr;
        if (is_stochastic(mode))
          words = scratch.words.fill(random_, uint64_t(at.element + c), int(size));
        if (together) {
          for (int64_t block = 0; any_special && block < count; ++block)
            powers[block] = spoiled[block] ? Word(no_power) : powers[block];
          const VectorScales<C> run(powers, powers, powers, k);
          rounder_.round_powers(mode, run, from, to, size, words, any_special);
          continue;
        }
        for (int64_t block = 0; block < count; ++block) {
          const int64_t i = block * k, n = least_of(k, size - i);
          const int power = int(signed_of(powers[block]));
          const uint32_t* own = words ? words + i : nullptr;
          if (spoiled[block]) {
            for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
          } else {
            round_power(mode, rounder_, power, special[block], from + i, to + i, n, own, scratch);
          }
        }
      }
    });
  }

 private:
  struct Nothing {};
  template <class Done>
  static constexpr bool stores = std::is_same_v<Done, Nothing>;

  template <class Done, class Work>
  void in_mode(Work work) const {
    if constexpr (stores<Done>) {
      with_mode(at_.plan.mode, work);
    } else {
      work(Known<Mode::nearest_even>());
    }
  }
  template <class Done>
  const RunRounder<C>& rounder() const {
    return stores<Done> ? rounder_ : trial_->rounder;
  }

  template <class Done>
  void apply_by(int64_t b, Range rows, Range columns, Scratch<C>& scratch, Done done) const {
    const Plan& plan = at_.plan;
    if (plan.family == Family::block && at_.by_units())
      return apply_units(b, rows, columns, scratch, done);
    const RunRounder<C>& rounder = this->rounder<Done>();
    in_mode<Done>([&](auto mode) {
      for (int64_t r = rows.first; r < rows.last; ++r) {
        const BlockRows::Row at = at_.blocks.row(b, r);
        for (int64_t c = columns.first; c < columns.last; c += piece) {
          const Range part{c, least_of(c + piece, columns.last)};
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + c), int(part.size()));
          const Stored* from = at_.source + at.source + c;
          Stored* to = stores<Done> ? at_.target + at.target + c : scratch.search.trial;
          if (plan.family == Family::table) {
            rounder.round_table(from, to, part.size(), words);
          } else if (plan.family == Family::element) {
            rounder.round_unscaled(mode, from, to, part.size(), words);
          } else {
            round_segments(mode, rounder, from, to, part, columns.first, words, scratch);
          }
          if constexpr (!stores<Done>) done(from, to, part);
        }
      }
    });
  }

  /// The same under the scales of `scratch.units`.
  template <class Done>
  void apply_units(int64_t b, Range rows, Range columns, Scratch<C>& scratch, Done done) const {
    Units<C>& u = scratch.units;
    const RunRounder<C>& rounder = this->rounder<Done>();
    const bool narrow = at_.narrow;
    const int64_t segment = at_.blocks.segment, first = columns.first / segment;
    const Strips strips(at_.blocks, narrow && stores<Done>, columns);
    const bool powers = at_.finder.keeps_powers();
    if (!powers) u.invert_scales();
    const Rule rule = at_.plan.scaling.rule;
    if (narrow)
      u.repeat_scales(strips.together, has_inverse(rule) || rule == Rule::minmax, !powers);
    // One for many elements: the compiler takes what follows from it out of the loop.
    const bool uniform =
        std::is_same_v<C, Single> && !narrow && least_of(segment, columns.size()) >= long_run;
    const bool even =
        !narrow && !uniform && VectorScales<C>::fits(segment) && columns.first % segment == 0;
    in_mode<Done>([&](auto mode) {
      strips.each(b, rows, columns, [&](BlockRows::Row at, int64_t n) {
        for (int64_t i = 0; i < n; i += piece) {
          const int64_t size = least_of<int64_t>(piece, n - i);
          const uint32_t* words = nullptr;
          if (is_stochastic(mode))
            words = scratch.words.fill(random_, uint64_t(at.element + i), int(size));
          const Stored* from = at_.source + at.source + i;
          Stored* to = stores<Done> ? at_.target + at.target + i : scratch.search.trial;
          const Range part{columns.first + i, columns.first + i + size};
          if (powers && even) {
            const Word* own = u.scale.data() + part.first / segment - first;
            const VectorScales<C> run(own, own, own, segment);
            rounder.round_powers(mode, run, from, to, size, words, u.infinities);
          } else if (powers) {
            const ScaleRun<C> run{u.scale.data() + i, u.extra.data() + i, u.inverse.data() + i};
            rounder.round_powers(mode, run, from, to, size, words, u.infinities);
          } else if (uniform) {
            if constexpr (std::is_same_v<C, Single>) {
              in_segments(part, segment, [&](int64_t s, Range own) {
                const size_t unit = size_t(s - first);
                const int64_t j = own.first - part.first;
                const UniformScale<C> run{u.scale[unit], u.extra[unit], u.inverse[unit]};
                rounder.round_scaled_run(mode, run, from + j, to + j, own.size(),
                                         words ? words + j : nullptr, u.infinities);
              });
            }
          } else if (even) {
            const int64_t unit = part.first / segment - first;
            const VectorScales<C> run(u.scale.data() + unit, u.extra.data() + unit,
                                      u.inverse.data() + unit, segment);
            rounder.round_scaled_run(mode, run, from, to, size, words, u.infinities);
          } else {
            ScaleRun<C> run{u.scale.data() + i, u.extra.data() + i, u.inverse.data() + i};
            if (!narrow) {
              in_segments(part, segment, [&](int64_t s, Range own) {
                const size_t unit = size_t(s - first);
                const int64_t j = own.first - part.first;
                fill<C>(scratch.scale + j, u.scale[unit], own.size());
                fill<C>(scratch.extra + j, u.extra[unit], own.size());
                fill<C>(scratch.inverse + j, u.inverse[unit], own.size());
              });
              run = {scratch.scale, scratch.extra, scratch.inverse};
            }
            rounder.round_scaled_run(mode, run, from, to, size, words, u.infinities);
          }
          if constexpr (!stores<Done>) done(from, to, part);
        }
      });
    });
  }

  /// Elements of some columns; `origin`: the column of the first scale's segment.
  template <class M>
  QS_INLINE void round_segments(M mode, const RunRounder<C>& rounder, const Stored* from,
                                Stored* to, Range columns, int64_t origin, const uint32_t* words,
                                Scratch<C>& scratch) const {
    const int64_t first = origin / at_.blocks.segment;
    in_segments(columns, at_.blocks.segment, [&](int64_t segment, Range part) {
      const Scale<C>& scale = scratch.scales[size_t(segment - first)];
      const int64_t i = part.first - columns.first, n = part.size();
      const uint32_t* own = words ? words + i : nullptr;
      if (scale.nan) {
        for (int64_t j = i; j < i + n; ++j) to[j] = Stored(C::nan);
      } else if (at_.finder.keeps_powers()) {
        round_power(mode, rounder, scale.power, scale.special, from + i, to + i, n, own, scratch);
      } else {
        rounder.round_by_quotient(scale, from + i, to + i, n, own);
      }
    });
  }

  /// A run under a power of two. special: whether any element may be infinite.
  template <class M>
  QS_INLINE void round_power(M mode, const RunRounder<C>& rounder, int power, bool special,
                             const Stored* from, Stored* to, int64_t n, const uint32_t* words,
                             Scratch<C>& scratch) const {
    if (rounder.shifts(power, n)) {
      const UniformScale<C> run{Word(power), 0, 0};
      return rounder.round_powers(mode, run, from, to, n, words, special);
    }
    const auto& entry = scratch.by_power.get(rounder.element(), power);
    rounder.round(mode, from, to, n, words, entry.constants, power, entry.shape_for(special));
  }

  const Blocked<C>& at_;
  Random random_;
  RunRounder<C> rounder_;
  std::unique_ptr<Trial<C>> trial_;
};

QS_END
