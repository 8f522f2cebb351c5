// Squared errors of blocks on a CPU, by which searched scales are chosen (clause BLK-17); the C++
// of `reference/scale_search.py`.
#pragma once
#include "cpu/run_rounder.h"

QS_BEGIN

constexpr int error_bits = 15;  // errors are counted in units of 2^-15 of the binade of amax

/// A plan as scales are tried by: to nearest even, saturating.
inline Plan trial_of(const Plan& plan) {
  Plan trial = plan;
  trial.mode = Mode::nearest_even;
  trial.random_bits = 0;
  for (Element* f : {&trial.element, &trial.element32}) {
    f->above = f->below = f->positive_infinity = f->negative_infinity = OverflowResult::to_bound;
    f->zero = f->has_zero ? OverflowResult::to_zero : OverflowResult::to_least;
  }
  for (Table* t : {&trial.table, &trial.table32})
    t->above = t->below = t->positive_infinity = t->negative_infinity = OverflowResult::to_bound;
  return trial;
}

/// What scales are tried with.
template <class C>
struct Trial {
  Plan plan;
  RunRounder<C> rounder;

  explicit Trial(const Plan& given) : plan(trial_of(given)), rounder(plan) {}
  Trial(const Trial&) = delete;
};

/// The exponent of the units of a block's errors.
template <class C>
int error_unit(typename C::Word amax) {
  if (amax == 0) return (C::width == 32 ? -127 : -1023) + C::least_exponent - error_bits;
  return number_of_bits<C>(amax).exponent - error_bits;
}

/// The sum of the squared errors of finite elements that were rounded; its order does not count.
template <class C>
uint64_t errors_of(const typename C::Stored* from, const typename C::Stored* to, int64_t n,
                   int unit) {
  using B = Computing<C>;
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  using Reals = FloatsOf<B>;
  using Signed = typename Kind<Vector>::Signed;
  const Vector none{}, most = none + join<B>({error_bits + 2, B::hidden});
  // 2^-unit in two factors, since one may be beyond the range.
  const int first = greatest_of(1 - B::bias, least_of(-unit, B::bias - 1)), second = -unit - first;
  const Reals factor = Reals(none + join<B>({first, B::hidden})),
              more = Reals(none + join<B>({second, B::hidden}));
  // ⌊|x|/2^unit⌋, or 2^(error_bits + 2) if that is less: products with powers of two are exact, or
  // so small that they count as 0.
  auto in_units = [&](Vector stored) QS_INLINE_LAMBDA {
    const Vector magnitude = widened<C>(stored) & (B::sign - 1);
    const Vector units = lesser<Vector>(Vector(Reals(magnitude) * factor * more), most);
    return Vector(__builtin_convertvector(Reals(units), Signed));
  };
  Vector64 total{};
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    const Vector x = V::load(from + i, count), magnitude = x & (C::sign - 1);
    const Vector a = in_units(x), b = in_units(V::load(to + i, count));
    const Vector error = lesser<Vector>(greater<Vector>(a, b) - lesser<Vector>(a, b),
                                        none + ((Word(1) << error_bits) - 1));
    const auto finite = signed_of(magnitude) < signed_of(none + C::infinity);
    const Vector64 squares = Vector64(select<Vector>(finite, error * error, none));
    total += C::width == 32 ? (squares & 0xFFFFFFFFu) + (squares >> 32) : squares;
  });
#if defined(__AVX512F__)
  return uint64_t(_mm512_reduce_add_epi64(__m512i(total)));
#endif
  uint64_t sum = 0;
  for (int i = 0; i < vector_bytes / 8; ++i) sum += total[i];
  return sum;
}

QS_END
