// Rounding of runs of elements on a CPU by a plan, whatever its family.
#pragma once
#include <type_traits>

#include "common/scaled_element.h"
#include "cpu/power_rows.h"
#include "cpu/scratch.h"

QS_BEGIN

constexpr int64_t long_run = 64;  // elements under one scale

/// work(mode) with a mode that the compiler knows.
template <class Work>
inline void with_mode(Mode mode, Work work) {
  switch (mode) {
    case Mode::nearest_even:
      return work(Known<Mode::nearest_even>());
    case Mode::nearest_away:
    case Mode::nearest_zero:
    case Mode::nearest_up:
      return work(TiesBySign{mode});
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

/// Rounds runs of elements under the scales that it is told.
template <class C>
class RunRounder {
 public:
  using Word = typename C::Word;
  using Stored = typename C::Stored;

  explicit RunRounder(const Plan& plan)
      : plan_(plan),
        constants_(constants_of<C>(plan.element, 0)),
        constants32_(constants_of<Single>(plan.element32, 0)),
        shifted_(C::width == 32 ? plan.element32 : plan.element),
        shape_(shape_of<C>(plan.element, 0, true)),
        quick_(computed_element(), plan.mode, plan.random_bits, false, true),
        quick_powers_(computed_element(), plan.mode, plan.random_bits, true, true),
        short_table_(plan.table),
        scaled_short_table_(scaled_table()),
        short_steps_(plan.table),
        scaled_short_steps_(scaled_table()) {}

  const Element& element() const { return plan_.element; }

  /// Under the scale 1.
  template <class M>
  QS_INLINE void round_unscaled(M mode, const Stored* from, Stored* to, int64_t n,
                                const uint32_t* words) const {
    round(mode, from, to, n, words, constants_, 0, shape_);
  }

  /// Under the scale 2^scale, of which `s` and `shape` are.
  template <class M>
  QS_INLINE void round(M mode, const Stored* from, Stored* to, int64_t n, const uint32_t* words,
                       const Constants<C>& s, int scale, Shape shape) const {
    if (shape == Shape::saturating) {
      round_run<C, Shape::saturating>(mode, from, to, n, words, s, plan_.element, scale);
    } else if (shape == Shape::regular) {
      round_run<C, Shape::regular>(mode, from, to, n, words, s, plan_.element, scale);
    } else {
      round_any(from, to, n, words, s, scale);
    }
  }

  void round_any(const Stored* from, Stored* to, int64_t n, const uint32_t* words,
                 const Constants<C>& s, int scale) const {
    round_run<C, Shape::any>(plan_.mode, from, to, n, words, s, plan_.element, scale);
  }

  /// To a table, under the scale 1.
  void round_table(const Stored* from, Stored* to, int64_t n, const uint32_t* words) const {
    const Table& t = plan_.table;
    auto by = [&](auto lookup) {
      round_table_run<C, decltype(lookup)::value>(from, to, n, words, plan_.mode, t, short_table_,
                                                  short_steps_);
    };
    if (in_lookup(t, words, ShortSteps<C>::fits(t), by)) return;
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t word = words ? uint64_t(words[i]) << 32 : 0;
      to[i] = Stored(round_to_table<C>(plan_.mode, Word(from[i]), word, t));
    }
  }

  /// A run of elements under a scale that is no power of two, one by one.
  void round_by_quotient(const Scale<C>& scale, const Stored* from, Stored* to, int64_t n,
                         const uint32_t* words) const {
    for (int64_t i = 0; i < n; ++i)
      to[i] = quotient(scale, Word(from[i]), words ? in_top_bits<C>(words[i]) : 0);
  }

  /// Under scales that are no powers of two. infinities: whether any element may be infinite.
  template <class M, class Run>
  QS_INLINE void round_scaled_run(M mode, const Run& run, const Stored* from, Stored* to, int64_t n,
                                  const uint32_t* words, bool infinities) const {
    if (plan_.scaling.in_table) return round_scaled_to_table_run(run, from, to, n, words);
    if (saturates(plan_.element, infinities)) {
      round_scaled_in<Shape::saturating>(mode, run, from, to, n, words);
    } else {
      round_scaled_in<Shape::regular>(mode, run, from, to, n, words);
    }
  }

  /// Under powers of two, the signed words that `run` has as scales.
  template <class M, class Run>
  QS_INLINE void round_powers(M mode, const Run& run, const Stored* from, Stored* to, int64_t n,
                              const uint32_t* words, bool infinities) const {
    if (saturates(plan_.element, infinities)) {
      round_powers_in<Shape::saturating>(mode, run, from, to, n, words);
    } else {
      round_powers_in<Shape::regular>(mode, run, from, to, n, words);
    }
  }

  /// Whether `round_powers` is the way of a run under a power.
  bool shifts(int power, int64_t n) const {
    return shifted_.holds(power) && (n < long_run || quick_powers_.taken);
  }

 private:
  using B = Computing<C>;

  const Table& scaled_table() const { return C::width == 32 ? plan_.table32 : plan_.table; }

  template <Lookup lookup>
  using Constant = std::integral_constant<Lookup, lookup>;

  static bool has_period(const Table& t) {
    return Vectors<C>::count == period_words && t.spacing.period;
  }

  /// work(lookup) with the one for a table; false where vectors do not look it up.
  template <class Work>
  bool in_lookup(const Table& t, const uint32_t* words, bool is_short, Work work) const {
    if (!words && t.count <= short_table) {
      work(Constant<Lookup::compare>());
    } else if (!words && t.spacing.binades) {
      work(Constant<Lookup::spacing>());
    } else if (!words && has_period(t)) {
      if constexpr (Vectors<C>::count == period_words) work(Constant<Lookup::period>());
    } else if (!words) {
      work(Constant<Lookup::index>());
    } else if (plan_.mode != Mode::stochastic_a) {
      return false;
    } else if (t.spacing.binades) {
      work(Constant<Lookup::spacing_stochastic>());
    } else if (has_period(t)) {
      if constexpr (Vectors<C>::count == period_words) work(Constant<Lookup::period_stochastic>());
    } else if (is_short) {
      if constexpr (Vectors<C>::count == ShortSteps<C>::half)
        work(Constant<Lookup::short_stochastic>());
    } else {
      work(Constant<Lookup::index_stochastic>());
    }
    return true;
  }

  /// An element; word: the random word in the top bits.
  Stored quotient(const Scale<C>& scale, Word raw, Word word) const {
    if (plan_.scaling.in_table) {
      return Stored(round_scaled_to_table<C>(plan_.mode, raw, uint64_t(word) << (64 - C::width),
                                             scale.number, plan_.table));
    }
    return Stored(round_scaled<C>(plan_.mode, raw, word, scale, constants_, constants32_,
                                  plan_.element, plan_.scaling.rule));
  }

  template <class Run>
  void round_scaled_to_table_run(const Run& run, const Stored* from, Stored* to, int64_t n,
                                 const uint32_t* words) const {
    const Table& t = scaled_table();
    auto slow = [&](int64_t i, Word raw) {
      const Number<B> number = number_of_bits<B>(run.scale_at(i));
      const Scale<C> scale = {0, {number.exponent, number.significand}, 0, 0, 0, 0};
      return quotient(scale, raw, words ? in_top_bits<C>(words[i]) : 0);
    };
    auto by = [&](auto lookup) {
      round_scaled_table_run<C, decltype(lookup)::value>(
          from, to, n, words, run, t, scaled_short_table_, scaled_short_steps_, slow);
    };
    if (in_lookup(t, words, ShortSteps<B>::fits(t), by)) return;
    for (int64_t i = 0; i < n; ++i) {
      const bool spoiled = run.scale_at(i) > B::infinity;
      to[i] = spoiled ? Stored(C::nan) : slow(i, Word(from[i]));
    }
  }

  template <Shape shape, class M, class Run>
  QS_INLINE void round_powers_in(M mode, const Run& run, const Stored* from, Stored* to, int64_t n,
                                 const uint32_t* words) const {
    if constexpr (may_be_quick(M())) {
      if (quick_powers_.taken) {
        const PowerScales<C, Run> scales(run, shifted_);
        return round_quick_run<C, shape, false>(
            mode, from, to, n, words, scales, computed_constants(), quick_powers_, 0,
            [&](int64_t i, int64_t count) {
              round_exact_powers<shape>(mode, run.at(i), from + i, to + i, count,
                                        words ? words + i : nullptr);
            });
      }
    }
    round_exact_powers<shape>(mode, run, from, to, n, words);
  }

  template <Shape shape, class M, class Run>
  __attribute__((noinline)) void round_exact_powers(M mode, const Run& run, const Stored* from,
                                                    Stored* to, int64_t n,
                                                    const uint32_t* words) const {
    round_power_run<C, shape>(mode, from, to, n, words, run, computed_constants(),
                              computed_element(), plan_.element, shifted_);
  }

  template <Shape shape, class M, class Run>
  QS_INLINE void round_scaled_in(M mode, const Run& run, const Stored* from, Stored* to, int64_t n,
                                 const uint32_t* words) const {
    const Rule rule = plan_.scaling.rule;
    const Element& f = computed_element();
    if constexpr (C::width == 32) {
      if (has_inverse(rule)) {
        return round_inverse_run<C, shape>(mode, from, to, n, words, run, constants32_, f,
                                           is_vendor(rule));
      }
    }
    if (rule == Rule::minmax) {
      round_quotients<Shape::saturating, true>(mode, run, from, to, n, words);
    } else {
      round_quotients<shape, false>(mode, run, from, to, n, words);
    }
  }

  template <Shape shape, bool zero_points, class M, class Run>
  QS_INLINE void round_quotients(M mode, const Run& run, const Stored* from, Stored* to, int64_t n,
                                 const uint32_t* words) const {
    if constexpr (may_be_quick(M())) {
      if (quick_.taken) {
        return round_quick_run<C, shape, zero_points>(
            mode, from, to, n, words, run, computed_constants(), quick_, most(),
            [&](int64_t i, int64_t count) {
              round_exactly<shape, zero_points>(mode, run.at(i), from + i, to + i, count,
                                                words ? words + i : nullptr);
            });
      }
    }
    round_exactly<shape, zero_points>(mode, run, from, to, n, words);
  }

  template <Shape shape, bool zero_points, class M, class Run>
  __attribute__((noinline)) void round_exactly(M mode, const Run& run, const Stored* from,
                                               Stored* to, int64_t n, const uint32_t* words) const {
    auto slow = [&](int64_t i, Word raw) {
      const Number<B> number = number_of_bits<B>(run.scale_at(i));
      const Scale<C> scale = {0, {number.exponent, number.significand}, 0, run.extra_at(i), 0, 0};
      return quotient(scale, raw, words ? in_top_bits<C>(words[i]) : 0);
    };
    round_quotient_run<C, shape, zero_points>(mode, from, to, n, words, run, computed_constants(),
                                              computed_element(), most(), slow);
  }

  /// The greatest integer, under zero points.
  Word most() const {
    return integer_of<C>({plan_.element.max_exponent, Word(plan_.element.max_significand)});
  }

  const Element& computed_element() const {
    return C::width == 32 ? plan_.element32 : plan_.element;
  }
  const Constants<B>& computed_constants() const {
    if constexpr (C::width == 32) {
      return constants32_;
    } else {
      return constants_;
    }
  }

  const Plan& plan_;
  Constants<C> constants_;
  Constants<Single> constants32_;
  ShiftedRange<C> shifted_;
  Shape shape_;
  QuickRounding<B> quick_, quick_powers_;
  ShortTable<C> short_table_;
  ShortTable<Computing<C>> scaled_short_table_;  // of elements under scales
  ShortSteps<C> short_steps_;
  ShortSteps<Computing<C>> scaled_short_steps_;
};

QS_END
