// Rounding of runs of elements on a CPU by a plan, whatever its family.
#pragma once
#include <type_traits>

#include "cpu/scratch.h"

QS_BEGIN

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
        shape_(shape_of<C>(plan.element, 0, true)),
        shape32_(shape_of<Single>(plan.element32, 0, true)),
        finite_shape32_(shape_of<Single>(plan.element32, 0, false)) {}

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

  void round_table(const Stored* from, Stored* to, int64_t n, const uint32_t* words) const {
    if (!words && plan_.table.count <= short_table)
      return round_short_table<C>(from, to, n, plan_.table);
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t word = words ? uint64_t(words[i]) << 32 : 0;
      to[i] = Stored(round_to_table<C>(plan_.mode, Word(from[i]), word, plan_.table));
    }
  }

  /// A run of elements under a scale that is no power of two.
  template <class M>
  QS_INLINE void round_by_quotient(M mode, const Scale<C>& scale, const Stored* from, Stored* to,
                                   int64_t n, const uint32_t* words) const {
    const Rule rule = plan_.scaling.rule;
    auto slow = [&](int64_t i) QS_INLINE_LAMBDA {
      const Word word = words ? in_top_bits<C>(words[i]) : 0;
      return Stored(round_scaled<C>(plan_.mode, Word(from[i]), word, scale, constants_,
                                    constants32_, plan_.element, rule));
    };
    if constexpr (C::width == 32) {
      const Number<Single> number = {scale.number.exponent, scale.number.significand};
      const Element& f = plan_.element32;
      auto run_vendor = [&](auto shape) QS_INLINE_LAMBDA {
        round_vendor_run<C, decltype(shape)::value>(mode, from, to, n, words, number, scale.inverse,
                                                    constants32_, f);
      };
      auto run_quotient = [&](auto shape, const Constants<Single>& s) QS_INLINE_LAMBDA {
        round_quotient_run<C, decltype(shape)::value>(mode, from, to, n, words, number, s, f, slow);
      };
      using Saturating = std::integral_constant<Shape, Shape::saturating>;
      using Regular = std::integral_constant<Shape, Shape::regular>;
      const Shape shape32 = scale.special ? shape32_ : finite_shape32_;
      const bool saturating = shape32 == Shape::saturating;
      if (is_vendor(rule)) {
        if (saturating) return run_vendor(Saturating());
        if (shape32 == Shape::regular && C::storage == 32) return run_vendor(Regular());
      } else if (takes_quotients(f) && takes_scale(number)) {
        if (rule == Rule::minmax) {
          if (saturating)
            return run_quotient(Saturating(), with_zero_point(constants32_, f, scale.zero_point));
        } else {
          if (saturating) return run_quotient(Saturating(), constants32_);
          if (C::storage == 32) return run_quotient(Regular(), constants32_);
        }
      }
    }
    for (int64_t i = 0; i < n; ++i) to[i] = slow(i);
  }

  /// Under a scale for each column, of which `first` is the first.
  template <Shape shape, class M>
  QS_INLINE void round_columns(M mode, const Stored* from, Stored* to, int64_t n,
                               const uint32_t* words, const ColumnConstants<C>& constants,
                               int64_t first) const {
    using V = Vectors<C>;
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      const typename V::V word = is_stochastic(mode) ? V::words(words + i, count) : typename V::V();
      V::store(to + i,
               round_element<C, shape>(mode, V::load(from + i, count), word,
                                       constants.get(first + i, count), plan_.element, 0),
               count);
    });
  }

 private:
  const Plan& plan_;
  Constants<C> constants_;
  Constants<Single> constants32_;
  Shape shape_, shape32_, finite_shape32_;
};

QS_END
