// Elementary operations on a CPU, rounded once from their exact values (clauses OPS and SUM-3);
// what `reference/round_to_odd.py` does in float64 is done here piece by piece.
#pragma once
#include "common/float_arithmetic.h"
#include "cpu/row_rounder.h"
#include "cpu/tasks.h"

QS_BEGIN

enum class Operation : int32_t { add, subtract, multiply, divide, sqrt };

using Wide = Vectors<Double>;

/// A number rounded to odd: `rest`, whose sign over those of `signs` but for that of `near` itself
/// tells where the exact number lies, is 0 where `near` is exact.
template <class B>
inline VectorIn<B> to_odd(VectorIn<B> near, VectorIn<B> rest, VectorIn<B> signs) {
  using Vector = VectorIn<B>;
  const Vector none{}, magnitude = near & (B::sign - 1);
  const auto inexact = ((rest & (B::sign - 1)) != none) & (magnitude != none) &
                       (signed_of(magnitude) < signed_of(none + B::infinity));
  const Vector toward =
      select<Vector>(signed_of(rest ^ signs) < signed_of(none), none - 1, none + 1);
  return select<Vector>(inexact & ((near & 1) == none), near + toward, near);
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
inline Floats roots(Floats x) {
#if defined(__AVX512F__)
  return Floats(_mm512_sqrt_ps(__m512(x)));
#elif defined(__AVX2__)
  return Floats(_mm256_sqrt_ps(__m256(x)));
#else
  for (int i = 0; i < vector_bytes / 4; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/// An operation in float32 or float64, rounded to odd where `odd`, else to nearest but for sums.
/// In float64 of numbers of at most 24 significant bits: there products are exact, and the
/// residuals of quotients and roots are far from underflow, so that one rounding leaves their
/// signs. In float32 where `float32_holds`.
template <class B, Operation operation, bool odd>
QS_INLINE VectorIn<B> combined(FloatsOf<B> a, FloatsOf<B> b) {
  using Vector = VectorIn<B>;
  using Reals = FloatsOf<B>;
  if constexpr (operation == Operation::subtract) {
    return combined<B, Operation::add, odd>(a, Reals(Vector(b) ^ B::sign));
  } else if constexpr (operation == Operation::add) {  // Knuth's TwoSum
    const Reals total = a + b, of_b = total - a;
    const Reals rest = (a - (total - of_b)) + (b - of_b);
    return to_odd<B>(Vector(total), Vector(rest), Vector(total));
  } else if constexpr (operation == Operation::multiply) {
    const Reals product = a * b;
    if constexpr (!odd || B::width == 64) return Vector(product);
    return to_odd<B>(Vector(product), Vector(residual(product, a, b)), ~Vector(product));
  } else if constexpr (operation == Operation::divide) {
    const Reals quotient = a / b;
    if constexpr (!odd) return Vector(quotient);
    return to_odd<B>(Vector(quotient), Vector(residual(a, quotient, b)),
                     Vector(quotient) ^ Vector(b));
  } else {
    const Reals root = roots(a);
    if constexpr (!odd) return Vector(root);
    return to_odd<B>(Vector(root), Vector(residual(a, root, root)), Vector(root));
  }
}

/// Whether results in float32 have exact rests, and are 0 or not below 2^-60, in all lanes. Rests
/// of sums are always exact. That of a product has no bit below 2^-46 of it, and those of quotients
/// and roots none below 2^-46 of a.
template <Operation operation>
QS_INLINE bool float32_holds(Floats a, Floats b, Vector32 near) {
  const Vector32 none{}, size = near & (Single::sign - 1), of_a = Vector32(a) & (Single::sign - 1);
  auto at_least = [&](Vector32 x, int e) QS_INLINE_LAMBDA {
    return signed_of(x) >= signed_of(none + (uint32_t(e + Single::bias) << Single::mantissa));
  };
  auto held = at_least(size, -60);
  if constexpr (operation == Operation::add || operation == Operation::subtract) {
    held |= size == none;
  } else if constexpr (operation == Operation::multiply) {
    held |= (of_a == none) | ((Vector32(b) & (Single::sign - 1)) == none);
  } else {
    held &= at_least(of_a, -100);
    held |= of_a == none;
  }
  return !any<Vector32>(~held);
}

/// Operations whose operands of few bits spare what rounds to odd.
constexpr bool may_be_short(Operation operation) {
  return operation != Operation::divide && operation != Operation::sqrt;
}

/// a + b, a - b or a·b in float32, and whether that tells the result of operands without the bits
/// of `low`, in all lanes. Products of 12 bits are exact. Sums of operands of p ≤ 10 bits, those of
/// the results, are as `PlainSum` has it, where results of `least` and more lie as far apart as
/// their binades have it; a sum of 2·least or more is next to no other operand that is inexact.
template <Operation operation>
QS_INLINE bool is_short(Floats a, Floats b, uint32_t low, uint32_t least, Vector32& near) {
  const Vector32 none{}, bits = Vector32(a) | Vector32(b);
  if constexpr (operation == Operation::multiply) {
    near = Vector32(a * b);
    return !any<Vector32>((bits & 0xFFFu) != none);
  } else {
    near = Vector32(operation == Operation::add ? a + b : a - b);
    const Vector32 size = near & (Single::sign - 1);
    const auto small =
        (signed_of(size) < signed_of(none + (least + (1u << Single::mantissa)))) & (size != none);
    return !any<Vector32>(((bits & low) != none) | small);
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
        rounder_(plan),
        element_(in_float32(plan.element)),
        constants_(constants_of<Single>(element_, 0)),
        quick_(element_, plan.mode, plan.random_bits, true, false),
        by_quick_(C::width == 32 && plan.family == Family::element && quick_.taken &&
                  fits_float32(plan.element)) {
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

  static Element in_float32(Element f) {
    constexpr int down = Double::mantissa - Single::mantissa;
    f.max_significand >>= down;
    f.min_significand >>= down;
    return f;
  }
  static bool fits_float32(const Element& f) {
    constexpr uint64_t below = (uint64_t(1) << (Double::mantissa - Single::mantissa)) - 1;
    return ((f.max_significand | f.min_significand) & below) == 0 &&
           greatest_of(f.max_exponent, f.min_exponent) <= Single::bias;
  }

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
    Stored a_apart[piece], b_apart[piece];
    const bool binary = operation_ != Operation::sqrt;
    const Stored* a = contiguous(a_ + at_a, of_a[last], n, a_apart);
    const Stored* b = binary ? contiguous(b_ + at_b, of_b[last], n, b_apart) : a;
    const uint32_t* words = is_stochastic(plan_.mode)
                                ? scratch.words.fill(random_, uint64_t(element), int(n))
                                : nullptr;
    with_operation([&](auto operation) {
      with_mode(plan_.mode, [&](auto mode) {
        run_elements<decltype(operation)::value>(mode, a, b, out_ + element, n, words);
      });
    });
  }

  template <Operation operation>
  using OperationOf = std::integral_constant<Operation, operation>;

  template <class Work>
  void with_operation(Work work) const {
    switch (operation_) {
      case Operation::add:
        return work(OperationOf<Operation::add>());
      case Operation::subtract:
        return work(OperationOf<Operation::subtract>());
      case Operation::multiply:
        return work(OperationOf<Operation::multiply>());
      case Operation::divide:
        return work(OperationOf<Operation::divide>());
      case Operation::sqrt:
        return work(OperationOf<Operation::sqrt>());
    }
  }

  /// In float32 where that tells the result, as `round_quickly` has it: to nearest even of numbers
  /// that are rounded to odd, whose ties are ties.
  template <Operation operation, class M>
  void run_elements(M mode, const Stored* a, const Stored* b, Stored* out, int64_t n,
                    const uint32_t* words) const {
    if constexpr (C::width == 32 && may_be_quick(M())) {
      if (by_quick_) {
        constexpr bool odd = !is_stochastic(M());
        const Constants<Single> s = constants_;
        const QuickRounding<Single> quick = quick_;
        const uint32_t low = element_.fraction > 9
                                 ? ~uint32_t(0)
                                 : (1u << (Single::mantissa - element_.fraction)) - 1;
        const Vector32 none{};
        return in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
          const Floats x = Floats(widened<C>(V::load(a + i, count)));
          Floats y = Floats(widened<C>(V::load(b + i, count)));
          if constexpr (operation == Operation::divide)  // 0/0 would be a doubt
            y = Floats(V::filled(Vector32(y), Vector32(Floats() + 1), count));
          Vector32 near;
          bool few = false;
          if constexpr (odd && may_be_short(operation))
            few = is_short<operation>(x, y, low, quick.least, near);
          if (!few) near = combined<Single, operation, odd>(x, y);
          const Vector32 sign = near & Single::sign;
          const Vector32 bound =
              select<Vector32>(sign != none, none + s.negative_bound, none + s.bound);
          Vector32 word{}, size;
          if constexpr (!odd) word = V::centred_words(words + i, quick.random_mask, count);
          const bool sure =
              float32_holds<operation>(x, y, near) &&
              round_quickly<Shape::regular>(mode, Floats(near ^ sign), word, bound, quick, size);
          if (!sure)
            return run_exactly<operation>(mode, a + i, b + i, out + i, int64_t(size_t(count)),
                                          words ? words + i : nullptr);
          const Vector32 kept =
              sign & select<Vector32>(size == none, none + s.negative_zero, none + Single::sign);
          V::store(out + i, narrowed<C>(size | kept), count);
        });
      }
    }
    run_exactly<operation>(mode, a, b, out, n, words);
  }

  template <Operation operation, class M>
  __attribute__((noinline)) void run_exactly(M mode, const Stored* a, const Stored* b, Stored* out,
                                             int64_t n, const uint32_t* words) const {
    double x[piece], y[piece];
    uint64_t value[piece];
    widen(x, a, n);
    if (operation != Operation::sqrt) widen(y, b, n);
    in_vectors<Wide::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      const auto bytes = bytes_of<double>(count);
      const Doubles c = load_bytes<Doubles>(x + i, bytes);
      const Doubles d = operation == Operation::sqrt ? c : load_bytes<Doubles>(y + i, bytes);
      Wide::store_words(value + i, combined<Double, operation, C::width == 32>(c, d), count);
    });
    if (plan_.family == Family::table) {
      rounder_.round_table(value, value, n, words);
    } else {
      rounder_.round_unscaled(mode, value, value, n, words);
    }
    narrow(out, value, n);
  }

  using B = Computing<C>;
  using V = Vectors<C>;

  /// The elements one after the other, in `apart` if they are not.
  static const Stored* contiguous(const Stored* from, int64_t stride, int64_t n, Stored* apart) {
    if (stride == 1) return from;
    if (stride == 0) {
      const Stored only = *from;
      for (int64_t i = 0; i < n; ++i) apart[i] = only;
      return apart;
    }
    for (int64_t i = 0; i < n; ++i) apart[i] = from[i * stride];
    return apart;
  }
  /// Elements in float64.
  static void widen(double* to, const Stored* from, int64_t n) {
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

  Operation operation_;
  const Plan& plan_;
  const Layout& operands_;
  Random random_;
  const Stored *a_, *b_;
  Stored* out_;
  RunRounder<Double> rounder_;
  Element element_;  // in float32
  Constants<Single> constants_;
  QuickRounding<Single> quick_;
  bool by_quick_;
  int64_t length_, parts_, units_, together_;
};

QS_END
