// The library's functions: each chooses the widest instruction set of the machine that runs it.
#include "plan.h"

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

using Quantize = void(const qemu_swalp::Plan*, const qemu_swalp::Layout*, const qemu_swalp::Random*, const void*, void*,
                      int);

extern "C" {
Quantize qs_quantize_baseline;
#if defined(__x86_64__)
Quantize qs_quantize_avx2, qs_quantize_avx512;
#endif
}

namespace {

struct Variant {
  const char* name;
  Quantize* quantize;
};

Variant best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
    return {"AVX-512", qs_quantize_avx512};
  }
  if (__builtin_cpu_supports("avx2")) return {"AVX2", qs_quantize_avx2};
  return {"SSE2", qs_quantize_baseline};
#else
  return {"baseline", qs_quantize_baseline};
#endif
}

const Variant variant = best();

}  // namespace

QS_EXPORT void qs_quantize(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                           const qemu_swalp::Random* random, const void* source, void* target, int threads) {
  variant.quantize(plan, layout, random, source, target, threads);
}

QS_EXPORT const char* qs_instruction_set() { return variant.name; }

/// Sizes of the structures, so that a library of other sources is refused.
QS_EXPORT int qs_size_of_plan() { return sizeof(qemu_swalp::Plan); }
QS_EXPORT int qs_size_of_layout() { return sizeof(qemu_swalp::Layout); }
