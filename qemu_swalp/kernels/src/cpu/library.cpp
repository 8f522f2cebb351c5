// The library's functions, by the widest instruction set of the machine that runs it, or by another
// that is asked for.
#include <cstring>

#include "common/plan.h"

namespace qemu_swalp {
struct Products;
struct Sgd;
}  // namespace qemu_swalp

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

using Quantize = void(const qemu_swalp::Plan*, const qemu_swalp::Layout*, const qemu_swalp::Random*,
                      const void*, void*, int);

using SgdSteps = void(const qemu_swalp::Sgd*, int, int);

using Multiply = void(const qemu_swalp::Products*, int);

extern "C" {
Quantize qs_quantize_baseline;
SgdSteps qs_sgd_baseline;
Multiply qs_multiply_baseline;
#if defined(__x86_64__)
Quantize qs_quantize_avx2, qs_quantize_avx512;
SgdSteps qs_sgd_avx2, qs_sgd_avx512;
Multiply qs_multiply_avx2, qs_multiply_avx512;
#endif
}

namespace {

struct Variant {
  const char* name;
  Quantize* quantize;
  SgdSteps* sgd;
  Multiply* multiply;
  bool there;  // on this machine
};

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Variant variants[] = {
    {"avx512", qs_quantize_avx512, qs_sgd_avx512, qs_multiply_avx512, has_avx512()},
    {"avx2", qs_quantize_avx2, qs_sgd_avx2, qs_multiply_avx2, has_avx2()},
    {"baseline", qs_quantize_baseline, qs_sgd_baseline, qs_multiply_baseline, true},
};
#else
const Variant variants[] = {
    {"baseline", qs_quantize_baseline, qs_sgd_baseline, qs_multiply_baseline, true}};
#endif

const Variant* choose(const char* name) {
  for (const Variant& variant : variants) {
    if (variant.there && (!name || !std::strcmp(name, variant.name))) return &variant;
  }
  return nullptr;
}

const Variant* chosen = choose(nullptr);

}  // namespace

QS_EXPORT void qs_quantize(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                           const qemu_swalp::Random* random, const void* source, void* target,
                           int threads) {
  chosen->quantize(plan, layout, random, source, target, threads);
}

QS_EXPORT void qs_sgd(const qemu_swalp::Sgd* tensors, int count, int threads) {
  chosen->sgd(tensors, count, threads);
}

QS_EXPORT void qs_multiply(const qemu_swalp::Products* products, int threads) {
  chosen->multiply(products, threads);
}

QS_EXPORT const char* qs_instruction_set() { return chosen->name; }

/// Takes an instruction set from now on; 0 where this machine lacks it.
QS_EXPORT int qs_choose(const char* name) {
  const Variant* found = choose(name);
  if (found) chosen = found;
  return found != nullptr;
}

/// The digest of the sources that this was compiled from.
QS_EXPORT const char* qs_sources() { return QS_SOURCES; }
