// Matrix products with every partial sum rounded (clauses SUM of `spec/semantics.md`): what a call is told, and the sum
// rounded to odd. `qemu_swalp/products.py` is what it equals.
#pragma once
#include "step.h"

QS_BEGIN

/// Roundings of one kind; `plan` null: none. keys: two words for each in turn, where they are stochastic.
struct Roundings {
  const Plan* plan;
  const uint32_t* keys;
};

/// a·b of contiguous matrices of float32 or float64: the result has `batches` of (rows, columns), each a sum of `terms`.
struct Products {
  Dtype dtype;
  int32_t group, chunk;                   // chunk 0: there are no totals
  int64_t batches, rows, columns, terms;
  const int64_t *first_a, *first_b;       // of each batch: the element where its matrix begins
  const void *a, *b;
  void* out;
  uint64_t offset;                        // of the result in the random sequence
  uint32_t step;
  Roundings product, sum, total;
};

/// The sum rounded to odd, as bits (clause SUM-3): Knuth's TwoSum tells what nearest even leaves of it. F: a float, or a
/// vector of them; V: its bits.
template <class C, class V, class F>
QS_INLINE V odd_sum(F a, F b) {
  const F total = add(a, b), of_b = subtract(total, a);
  const F left = add(subtract(a, subtract(total, of_b)), subtract(b, of_b));
  V bits, rest;
  __builtin_memcpy(&bits, &total, sizeof bits);
  __builtin_memcpy(&rest, &left, sizeof rest);
  const V none = V();
  const auto inexact = (rest << 1) != none;
  const auto finite = signed_of(bits & (C::sign - 1)) < signed_of(none + C::infinity);
  const auto even = (bits & 1) == none;
  const V toward = select<V>(signed_of(bits ^ rest) < signed_of(none), none - 1, none + 1);
  return select<V>(inexact & finite & even, bits + toward, bits);
}

QS_END
