// The library's functions, by the widest instruction set of the machine that runs it, or by another
// that is asked for.
#include <cstring>

#include "cpu/functions.h"

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

using namespace qemu_swalp;

#define QS_DECLARE(variant)                         \
  extern const Functions QS_TABLE(variant, Half);   \
  extern const Functions QS_TABLE(variant, BFloat); \
  extern const Functions QS_TABLE(variant, Single); \
  extern const Functions QS_TABLE(variant, Double);

#pragma GCC visibility push(hidden)
extern "C" {
QS_DECLARE(baseline)
#if defined(__x86_64__)
QS_DECLARE(avx2)
QS_DECLARE(avx512)
#endif
}
#pragma GCC visibility pop

namespace {

struct Variant {
  const char* name;
  const Functions* tables[4];  // in the order of `Dtype`
  bool there;                  // on this machine

  const Functions& of(Dtype dtype) const { return *tables[int(dtype)]; }
};

#define QS_TABLES(variant)                                                            \
  #variant, {                                                                         \
    &QS_TABLE(variant, Half), &QS_TABLE(variant, BFloat), &QS_TABLE(variant, Single), \
        &QS_TABLE(variant, Double)                                                    \
  }

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

/// The widest first.
const Variant variants[] = {
#if defined(__x86_64__)
    {QS_TABLES(avx512), has_avx512()},
    {QS_TABLES(avx2), has_avx2()},
#endif
    {QS_TABLES(baseline), true},
};

const Variant* choose(const char* name) {
  for (const Variant& variant : variants) {
    if (variant.there && (!name || !std::strcmp(name, variant.name))) return &variant;
  }
  return nullptr;
}

const Variant* chosen = choose(nullptr);

}  // namespace

QS_EXPORT void qs_quantize(const Plan* plan, const Layout* layout, const Random* random,
                           const void* source, void* target, int threads) {
  const Given none{};
  chosen->of(plan->dtype).quantize(plan, layout, random, &none, source, target, threads);
}

/// The same under scales that are given.
QS_EXPORT void qs_quantize_given(const Plan* plan, const Layout* layout, const Random* random,
                                 const Given* given, const void* source, void* target,
                                 int threads) {
  chosen->of(plan->dtype).quantize(plan, layout, random, given, source, target, threads);
}

/// Rounds tensors of one dtype, float32 or float64.
QS_EXPORT void qs_round_many(const TensorRounding* tensors, int count, int threads) {
  if (count) chosen->of(tensors[0].dtype).round_many(tensors, count, threads);
}

/// SGD steps of tensors of one dtype, float32 or float64.
QS_EXPORT void qs_sgd(const SgdTensor* tensors, int count, int threads) {
  if (count) chosen->of(tensors[0].dtype).sgd(tensors, count, threads);
}

/// A product of matrices of float32 or float64.
QS_EXPORT void qs_matmul(const Matmul* matmul, int threads) {
  chosen->of(matmul->dtype).matmul(matmul, threads);
}

/// Of the magnitudes of float32 numbers: the bits that any has, the least that is not 0, the
/// greatest.
QS_EXPORT void qs_span(const uint32_t* numbers, int64_t count, uint32_t* span) {
  chosen->of(Dtype::float32).span(numbers, count, span);
}

/// An elementary operation on arrays of one dtype; the plan is in float64.
QS_EXPORT void qs_operate(int operation, int dtype, const Plan* plan, const Layout* operands,
                          const Random* random, const void* a, const void* b, void* out,
                          int threads) {
  chosen->of(Dtype::float64).operate(operation, dtype, plan, operands, random, a, b, out, threads);
}

/// A Hadamard transform of an array of float32 or float64, `dtype`.
QS_EXPORT void qs_hadamard(int dtype, int64_t outer, int64_t length, int64_t inner, int64_t size,
                           const void* signs, const void* source, void* target, int threads) {
  chosen->of(Dtype(dtype)).hadamard(outer, length, inner, size, signs, source, target, threads);
}

QS_EXPORT const char* qs_instruction_set() { return chosen->name; }

/// Takes an instruction set from now on; 0 where this machine lacks it.
QS_EXPORT int qs_choose(const char* name) {
  const Variant* variant = choose(name);
  if (variant) chosen = variant;
  return variant != nullptr;
}

/// The digest of the sources that this was compiled from.
QS_EXPORT const char* qs_sources() { return QS_SOURCES; }

/// Sizes and offsets of all that Python fills in.
QS_EXPORT const LayoutEntry* qs_layouts(int* count) {
  *count = int(sizeof layouts / sizeof layouts[0]);
  return layouts;
}
