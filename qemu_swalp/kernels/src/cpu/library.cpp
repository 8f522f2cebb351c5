// The library's functions, by the widest instruction set of the machine that runs it, or by another
// that is asked for.
#include <cstring>

#include "common/layouts.h"

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

using namespace qemu_swalp;

using Quantize = void(const Plan*, const Layout*, const Random*, const Given*, const void*, void*,
                      int);
using RoundMany = void(const TensorRounding*, int, int);
using SgdMany = void(const SgdTensor*, int, int);
using Multiply = void(const Matmul*, int);
using Operate = void(int, int, const Plan*, const Layout*, const Random*, const void*, const void*,
                     void*, int);
using Transform = void(int, int64_t, int64_t, int64_t, int64_t, const void*, const void*, void*,
                       int);

#define QS_DECLARE(variant)          \
  Quantize qs_quantize_##variant;    \
  RoundMany qs_round_many_##variant; \
  SgdMany qs_sgd_##variant;          \
  Multiply qs_matmul_##variant;      \
  Operate qs_operate_##variant;      \
  Transform qs_hadamard_##variant;

extern "C" {
QS_DECLARE(baseline)
#if defined(__x86_64__)
QS_DECLARE(avx2)
QS_DECLARE(avx512)
#endif
}

namespace {

struct Variant {
  const char* name;
  Quantize* quantize;
  RoundMany* round_many;
  SgdMany* sgd;
  Multiply* matmul;
  Operate* operate;
  Transform* hadamard;
  bool there;  // on this machine
};

#define QS_FUNCTIONS(variant)                                                                      \
  #variant, qs_quantize_##variant, qs_round_many_##variant, qs_sgd_##variant, qs_matmul_##variant, \
      qs_operate_##variant, qs_hadamard_##variant

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
    {QS_FUNCTIONS(avx512), has_avx512()},
    {QS_FUNCTIONS(avx2), has_avx2()},
#endif
    {QS_FUNCTIONS(baseline), true},
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
  chosen->quantize(plan, layout, random, &none, source, target, threads);
}

/// The same under scales that are given.
QS_EXPORT void qs_quantize_given(const Plan* plan, const Layout* layout, const Random* random,
                                 const Given* given, const void* source, void* target,
                                 int threads) {
  chosen->quantize(plan, layout, random, given, source, target, threads);
}

QS_EXPORT void qs_round_many(const TensorRounding* tensors, int count, int threads) {
  chosen->round_many(tensors, count, threads);
}

QS_EXPORT void qs_sgd(const SgdTensor* tensors, int count, int threads) {
  chosen->sgd(tensors, count, threads);
}

QS_EXPORT void qs_matmul(const Matmul* matmul, int threads) { chosen->matmul(matmul, threads); }

/// Of the magnitudes of float32 numbers: the bits that any has, the least that is not 0, the
/// greatest.
QS_EXPORT void qs_span(const uint32_t* numbers, int64_t count, uint32_t* span) {
  uint32_t bits = 0, below = 0, most = 0;  // below: all bits but those of the least
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = numbers[i] & (Single::sign - 1);
    const uint32_t left = magnitude ? Single::sign - 1 - magnitude : 0;
    bits |= magnitude;
    below = left > below ? left : below;
    most = magnitude > most ? magnitude : most;
  }
  span[0] = bits;
  span[1] = Single::sign - 1 - below;
  span[2] = most;
}

QS_EXPORT void qs_operate(int operation, int dtype, const Plan* plan, const Layout* operands,
                          const Random* random, const void* a, const void* b, void* out,
                          int threads) {
  chosen->operate(operation, dtype, plan, operands, random, a, b, out, threads);
}

QS_EXPORT void qs_hadamard(int dtype, int64_t outer, int64_t length, int64_t inner, int64_t size,
                           const void* signs, const void* source, void* target, int threads) {
  chosen->hadamard(dtype, outer, length, inner, size, signs, source, target, threads);
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
