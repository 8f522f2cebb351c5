// Matrix products with every partial sum rounded (clauses SUM of `spec/semantics.md`): what a call
// is told, and the sum rounded to odd. They equal `ops/matmul.py`.
#pragma once
#include "common/float_arithmetic.h"
#include "common/plan.h"

QS_BEGIN

/// How products, sums and totals are rounded; `product` and `total` null: not, or there are none.
struct MatmulPlans {
  const Plan *product, *sum, *total;
};

/// a·b of contiguous matrices of float32 or float64: the result has `batches` of (rows, columns),
/// each a sum of `terms`.
struct Matmul {
  Dtype dtype;
  int32_t group, chunk;  // chunk 0: there are no totals
  // 1: one rounding to nearest even does for each sum (`cpu/plain_sums.h`); 2: and sums are within
  // its range for sure.
  int32_t plain;
  int64_t batches, rows, columns, terms;
  const int64_t *first_a, *first_b;  // of each batch: the element where its matrix begins
  const void *a, *b;
  void* out;
  MatmulPlans plans;
  Random random;  // its key: of no rounding
  uint32_t seed[2], stream[2];
};

enum class Part : uint32_t { product = 1, sum = 2, total = 3 };

/// Sets the key of rounding n of a kind (clause SUM-5).
QS_FUNCTION void turn_to(Random& random, const Matmul& p, Part part, uint32_t n) {
  const uint32_t counter[4] = {p.stream[0], p.stream[1], n, uint32_t(part)};
  const Words words = philox(counter, p.seed);
  random.key[0] = words.at[0];
  random.key[1] = words.at[1];
}

/// The sum rounded to odd, as bits (clause SUM-3): Knuth's TwoSum tells what nearest even leaves of
/// it. F: a float, or a vector of them; V: its bits.
template <class C, class V, class F>
QS_INLINE V odd_sum(F a, F b) {
  const F total = add(a, b), of_b = subtract(total, a);
  const F left = add(subtract(a, subtract(total, of_b)), subtract(b, of_b));
  const V bits = bits_as<V>(total), rest = bits_as<V>(left), none = V();
  const auto inexact = (rest << 1) != none;
  const auto finite = signed_of(bits & (C::sign - 1)) < signed_of(none + C::infinity);
  const auto even = (bits & 1) == none;
  const V toward = select<V>(signed_of(bits ^ rest) < signed_of(none), none - 1, none + 1);
  return select<V>(inexact & finite & even, bits + toward, bits);
}

QS_END
