// Sizes and offsets of all structures that Python fills in: `layouts.layouts` must be equal.
#pragma once
#include "common/calls.h"

QS_BEGIN

/// A structure and its size, or a field and its offset, in bytes.
struct LayoutEntry {
  const char* name;
  int64_t value;
};

#define QS_SIZE(structure) {#structure, sizeof(structure)}
#define QS_OFFSET(structure, field) {#structure "." #field, __builtin_offsetof(structure, field)}

constexpr LayoutEntry layouts[] = {
    QS_SIZE(Element),
    QS_OFFSET(Element, breakpoint),
    QS_OFFSET(Element, ulp_exponent),
    QS_OFFSET(Element, fraction),
    QS_OFFSET(Element, table_first),
    QS_OFFSET(Element, table_count),
    QS_OFFSET(Element, table),
    QS_OFFSET(Element, max_exponent),
    QS_OFFSET(Element, min_exponent),
    QS_OFFSET(Element, least_exponent),
    QS_OFFSET(Element, is_signed),
    QS_OFFSET(Element, has_zero),
    QS_OFFSET(Element, has_negative_zero),
    QS_OFFSET(Element, max_significand),
    QS_OFFSET(Element, min_significand),
    QS_OFFSET(Element, above),
    QS_OFFSET(Element, below),
    QS_OFFSET(Element, positive_infinity),
    QS_OFFSET(Element, negative_infinity),
    QS_OFFSET(Element, zero),
    QS_OFFSET(Element, random_bits),
    QS_SIZE(Scaling),
    QS_OFFSET(Scaling, rule),
    QS_OFFSET(Scaling, least_power),
    QS_OFFSET(Scaling, greatest_power),
    QS_OFFSET(Scaling, even_bits),
    QS_OFFSET(Scaling, spoiled_from),
    QS_OFFSET(Scaling, element_max32),
    QS_OFFSET(Scaling, scale_max32),
    QS_OFFSET(Scaling, scale_least32),
    QS_OFFSET(Scaling, full_range32),
    QS_OFFSET(Scaling, scale),
    QS_SIZE(SignView),
    QS_OFFSET(SignView, keys),
    QS_OFFSET(SignView, bits),
    QS_OFFSET(SignView, ulp_exponents),
    QS_OFFSET(SignView, starts),
    QS_OFFSET(SignView, divisors),
    QS_OFFSET(SignView, key_count),
    QS_OFFSET(SignView, not_positive),
    QS_SIZE(Table),
    QS_OFFSET(Table, thresholds),
    QS_OFFSET(Table, values),
    QS_OFFSET(Table, count),
    QS_OFFSET(Table, random_bits),
    QS_OFFSET(Table, has_negative_zero),
    QS_OFFSET(Table, low),
    QS_OFFSET(Table, high),
    QS_OFFSET(Table, above),
    QS_OFFSET(Table, below),
    QS_OFFSET(Table, positive_infinity),
    QS_OFFSET(Table, negative_infinity),
    QS_OFFSET(Table, positive),
    QS_OFFSET(Table, negative),
    QS_SIZE(Plan),
    QS_OFFSET(Plan, dtype),
    QS_OFFSET(Plan, family),
    QS_OFFSET(Plan, mode),
    QS_OFFSET(Plan, random_bits),
    QS_OFFSET(Plan, element),
    QS_OFFSET(Plan, element32),
    QS_OFFSET(Plan, scaling),
    QS_OFFSET(Plan, table),
    QS_SIZE(Layout),
    QS_OFFSET(Layout, axes),
    QS_OFFSET(Layout, lengths),
    QS_OFFSET(Layout, extents),
    QS_OFFSET(Layout, source_strides),
    QS_OFFSET(Layout, target_strides),
    QS_SIZE(Random),
    QS_OFFSET(Random, words),
    QS_OFFSET(Random, step_at),
    QS_OFFSET(Random, offset),
    QS_OFFSET(Random, step),
    QS_OFFSET(Random, key),
    QS_SIZE(Counts),
    QS_OFFSET(Counts, columns),
    QS_OFFSET(Counts, segment),
    QS_OFFSET(Counts, segments),
    QS_OFFSET(Counts, count),
    QS_OFFSET(Counts, most_rows),
    QS_SIZE(ChunkedRounding),
    QS_OFFSET(ChunkedRounding, plan),
    QS_OFFSET(ChunkedRounding, chunk),
    QS_OFFSET(ChunkedRounding, last),
    QS_OFFSET(ChunkedRounding, random),
    QS_SIZE(TensorRounding),
    QS_OFFSET(TensorRounding, dtype),
    QS_OFFSET(TensorRounding, elements),
    QS_OFFSET(TensorRounding, chunk_elements),
    QS_OFFSET(TensorRounding, source),
    QS_OFFSET(TensorRounding, target),
    QS_OFFSET(TensorRounding, rounding),
    QS_SIZE(SgdTensor),
    QS_OFFSET(SgdTensor, dtype),
    QS_OFFSET(SgdTensor, nesterov),
    QS_OFFSET(SgdTensor, maximize),
    QS_OFFSET(SgdTensor, has_momentum),
    QS_OFFSET(SgdTensor, has_decay),
    QS_OFFSET(SgdTensor, elements),
    QS_OFFSET(SgdTensor, chunk_elements),
    QS_OFFSET(SgdTensor, learning_rate),
    QS_OFFSET(SgdTensor, momentum),
    QS_OFFSET(SgdTensor, gain),
    QS_OFFSET(SgdTensor, weight_decay),
    QS_OFFSET(SgdTensor, gradient),
    QS_OFFSET(SgdTensor, weight),
    QS_OFFSET(SgdTensor, velocity),
    QS_OFFSET(SgdTensor, accumulator),
    QS_OFFSET(SgdTensor, new_weight),
    QS_OFFSET(SgdTensor, new_velocity),
    QS_OFFSET(SgdTensor, new_accumulator),
    QS_OFFSET(SgdTensor, gradient_rounding),
    QS_OFFSET(SgdTensor, momentum_rounding),
    QS_OFFSET(SgdTensor, accumulator_rounding),
    QS_OFFSET(SgdTensor, weight_rounding),
    QS_SIZE(MatmulPlans),
    QS_OFFSET(MatmulPlans, product),
    QS_OFFSET(MatmulPlans, sum),
    QS_OFFSET(MatmulPlans, total),
    QS_SIZE(Matmul),
    QS_OFFSET(Matmul, dtype),
    QS_OFFSET(Matmul, group),
    QS_OFFSET(Matmul, chunk),
    QS_OFFSET(Matmul, batches),
    QS_OFFSET(Matmul, rows),
    QS_OFFSET(Matmul, columns),
    QS_OFFSET(Matmul, terms),
    QS_OFFSET(Matmul, first_a),
    QS_OFFSET(Matmul, first_b),
    QS_OFFSET(Matmul, a),
    QS_OFFSET(Matmul, b),
    QS_OFFSET(Matmul, out),
    QS_OFFSET(Matmul, plans),
    QS_OFFSET(Matmul, random),
    QS_OFFSET(Matmul, seed),
    QS_OFFSET(Matmul, stream),
    QS_SIZE(Span),
    QS_OFFSET(Span, bits),
    QS_OFFSET(Span, far),
    QS_OFFSET(Span, most),
    QS_SIZE(QuantizeCall),
    QS_OFFSET(QuantizeCall, plan),
    QS_OFFSET(QuantizeCall, layout),
    QS_OFFSET(QuantizeCall, counts),
    QS_OFFSET(QuantizeCall, random),
    QS_OFFSET(QuantizeCall, source),
    QS_OFFSET(QuantizeCall, target),
    QS_OFFSET(QuantizeCall, extremes),
    QS_OFFSET(QuantizeCall, whole),
    QS_OFFSET(QuantizeCall, row_step),
    QS_OFFSET(QuantizeCall, column_step),
    QS_OFFSET(QuantizeCall, row_parts),
    QS_OFFSET(QuantizeCall, column_parts),
    QS_OFFSET(QuantizeCall, windows),
    QS_OFFSET(QuantizeCall, width),
    QS_SIZE(RoundManyCall),
    QS_OFFSET(RoundManyCall, tensors),
    QS_OFFSET(RoundManyCall, first_task),
    QS_OFFSET(RoundManyCall, count),
    QS_SIZE(SgdCall),
    QS_OFFSET(SgdCall, tensors),
    QS_OFFSET(SgdCall, first_task),
    QS_OFFSET(SgdCall, count),
    QS_SIZE(SpanCall),
    QS_OFFSET(SpanCall, arrays),
    QS_OFFSET(SpanCall, counts),
    QS_OFFSET(SpanCall, spans),
    QS_SIZE(MatmulCall),
    QS_OFFSET(MatmulCall, matmul),
    QS_OFFSET(MatmulCall, single),
    QS_OFFSET(MatmulCall, spans),
    QS_OFFSET(MatmulCall, limit),
};

#undef QS_SIZE
#undef QS_OFFSET

constexpr uint64_t fnv_prime = 0x100000001B3u;

/// The 64-bit hash FNV-1a (Fowler, Noll and Vo).
constexpr uint64_t fnv1a(const char* text) {
  uint64_t value = 0xCBF29CE484222325u;
  for (; *text; ++text) value = (value ^ uint64_t((unsigned char)*text)) * fnv_prime;
  return value;
}

/// `layouts.fingerprint`: a sum, so that the order does not count.
constexpr uint64_t fingerprint() {
  uint64_t total = 0;
  for (const LayoutEntry& entry : layouts)
    total += (fnv1a(entry.name) ^ uint64_t(entry.value)) * fnv_prime;
  return total;
}

#if defined(QS_LAYOUTS)
static_assert(fingerprint() == QS_LAYOUTS,
              "Python lays these structures out differently: see kernels/structs.py and common/");
#endif

QS_END
