// Elementary operations on a CPU, rounded once from their exact values (clauses OPS and SUM-3);
// what `reference/round_to_odd.py` does in float64 is done here piece by piece.
#pragma once
#include "common/float_arithmetic.h"
#include "cpu/row_rounder.h"
#include "cpu/tasks.h"

QS_BEGIN

enum class Operation : int32_t { add, subtract, multiply, divide, sqrt };

using Wide = Vectors<Double>;

/// A float64 number rounded to odd: `rest`, whose sign over those of `signs` but for that of `near`
/// itself tells where the exact number lies, is 0 where `near` is exact.
inline Vector64 to_odd(Vector64 near, Vector64 rest, Vector64 signs) {
  const Vector64 none{}, magnitude = near & (Double::sign - 1);
  const auto inexact = ((rest & (Double::sign - 1)) != none) & (magnitude != none) &
                       (signed_of(magnitude) < signed_of(none + Double::infinity));
  const Vector64 toward =
      select<Vector64>(signed_of(rest ^ signs) < signed_of(none), none - 1, none + 1);
  return select<Vector64>(inexact & ((near & 1) == none), near + toward, near);
}

/// Square roots, each rounded to nearest.
inline Doubles roots(Doubles x) {
#if defined(__AVX512F__)
  return Doubles(_mm512_sqrt_pd(__m512d(x)));
#elif defined(__AVX2__)
  return Doubles(_mm256_sqrt_pd(__m256d(x)));
#else
  for (int i = 0; i < vector_bytes / 8; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

/// An operation in float64. `narrow`: on numbers of at most 24 significant bits, rounded to odd:
/// there products are exact, and the residuals of quotients and roots are far from underflow, so
/// that one rounding leaves their signs. Of others sums alone are rounded to odd.
template <Operation operation, bool narrow>
QS_INLINE Vector64 combined(Doubles a, Doubles b) {
  if constexpr (operation == Operation::subtract) return combined<Operation::add, narrow>(a, -b);
  if constexpr (operation == Operation::add) {  // Knuth's TwoSum
    const Doubles total = a + b, of_b = total - a;
    const Doubles rest = (a - (total - of_b)) + (b - of_b);
    return to_odd(Vector64(total), Vector64(rest), Vector64(total));
  }
  if constexpr (operation == Operation::multiply) return Vector64(a * b);
  if constexpr (operation == Operation::divide) {
    const Doubles quotient = a / b;
    if (!narrow) return Vector64(quotient);
    return to_odd(Vector64(quotient), Vector64(residual(a, quotient, b)),
                  Vector64(quotient) ^ Vector64(b));
  }
  if constexpr (operation == Operation::sqrt) {
    const Doubles root = roots(a);
    if (!narrow) return Vector64(root);
    return to_odd(Vector64(root), Vector64(residual(a, root, root)), Vector64(root));
  }
}

/// What one operation on two arrays needs. C: the dtype of their elements. `plan`: in float64.
template <class C>
class OperateJob {
 public:
  using Stored = typename C::Stored;

  /// `operands`: lengths, and strides of both operands, which may be 0; the result is in C order.
  OperateJob(Operation operation, const Plan& plan, const Layout& operands, const Random& random,
             const void* a, const void* b, void* out)
      : operation_(operation),
        plan_(plan),
        operands_(operands),
        random_(random),
        a_(static_cast<const Stored*>(a)),
        b_(static_cast<const Stored*>(b)),
        out_(static_cast<Stored*>(out)),
        rounder_(plan) {
    const int last = operands.axes - 1;
    length_ = operands.lengths[last];
    parts_ = ceiling(length_, piece);
    int64_t rows = 1;
    for (int axis = 0; axis < last; ++axis) rows *= operands.lengths[axis];
    units_ = rows * parts_;
    together_ = greatest_of<int64_t>(1, task_elements / least_of<int64_t>(length_, piece));
  }

  int64_t tasks() const { return ceiling(units_, together_); }

  void run(int64_t task, Scratch<Double>& scratch) const {
    const int64_t last = least_of(units_, (task + 1) * together_);
    for (int64_t unit = task * together_; unit < last; ++unit) run_unit(unit, scratch);
  }

 private:
  using Float = typename FloatOf<typename Computing<C>::Word>::Type;

  /// A row, or a piece of one.
  void run_unit(int64_t unit, Scratch<Double>& scratch) const {
    const int last = operands_.axes - 1;
    const int64_t first = unit % parts_ * piece, n = least_of<int64_t>(piece, length_ - first);
    int64_t row = unit / parts_;
    const int64_t element = row * length_ + first;
    const int64_t *of_a = operands_.source_strides, *of_b = operands_.target_strides;
    int64_t at_a = first * of_a[last], at_b = first * of_b[last];
    for (int axis = last - 1; axis >= 0; --axis) {
      const int64_t index = row % operands_.lengths[axis];
      row /= operands_.lengths[axis];
      at_a += index * of_a[axis];
      at_b += index * of_b[axis];
    }
    double x[piece], y[piece];
    uint64_t value[piece];
    widen(x, a_ + at_a, of_a[last], n);
    if (operation_ != Operation::sqrt) widen(y, b_ + at_b, of_b[last], n);
    combine(x, y, value, n);
    const bool stochastic = is_stochastic(plan_.mode);
    const uint32_t* words =
        stochastic ? scratch.words.fill(random_, uint64_t(element), int(n)) : nullptr;
    with_mode(plan_.mode, [&](auto mode) {
      if (plan_.family == Family::table) {
        rounder_.round_table(value, value, n, words);
      } else {
        rounder_.round_unscaled(mode, value, value, n, words);
      }
    });
    narrow(out_ + element, value, n);
  }

  using B = Computing<C>;
  using V = Vectors<C>;

  /// Elements in float64.
  static void widen(double* to, const Stored* from, int64_t stride, int64_t n) {
    Stored apart[piece];
    if (stride != 1) {
      for (int64_t i = 0; i < n; ++i) apart[i] = from[i * stride];
      from = apart;
    }
    typename B::Word bits[piece];
    in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      V::store_words(bits + i, widened<C>(V::load(from + i, count)), count);
    });
    for (int64_t i = 0; i < n; ++i) to[i] = double(bits_as<Float>(bits[i]));
  }
  /// And back, of numbers that C holds.
  static void narrow(Stored* to, const uint64_t* from, int64_t n) {
    typename B::Word bits[piece];
    for (int64_t i = 0; i < n; ++i)
      bits[i] = bits_as<typename B::Word>(Float(bits_as<double>(from[i])));
    in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      V::store(to + i, narrowed<C>(V::load_words(bits + i, count)), count);
    });
  }

  void combine(const double* x, const double* y, uint64_t* value, int64_t n) const {
    switch (operation_) {
      case Operation::add:
        return combine_by<Operation::add>(x, y, value, n);
      case Operation::subtract:
        return combine_by<Operation::subtract>(x, y, value, n);
      case Operation::multiply:
        return combine_by<Operation::multiply>(x, y, value, n);
      case Operation::divide:
        return combine_by<Operation::divide>(x, y, value, n);
      case Operation::sqrt:
        return combine_by<Operation::sqrt>(x, x, value, n);
    }
  }

  template <Operation operation>
  static void combine_by(const double* x, const double* y, uint64_t* value, int64_t n) {
    in_vectors<Wide::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      const auto bytes = bytes_of<double>(count);
      const Doubles a = load_bytes<Doubles>(x + i, bytes), b = load_bytes<Doubles>(y + i, bytes);
      Wide::store_words(value + i, combined<operation, C::width == 32>(a, b), count);
    });
  }

  Operation operation_;
  const Plan& plan_;
  const Layout& operands_;
  Random random_;
  const Stored *a_, *b_;
  Stored* out_;
  RunRounder<Double> rounder_;
  int64_t length_, parts_, units_, together_;
};

QS_END
