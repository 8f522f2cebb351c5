// The kernels on a CPU of one source dtype, as one compilation of `kernels.cpp` has them.
#pragma once
#include "common/layouts.h"

QS_BEGIN

/// Null where a dtype has no such kernel.
struct Functions {
  void (*quantize)(const Plan*, const Layout*, const Random*, const Given*, const void* source,
                   void* target, int threads);
  void (*round_many)(const TensorRounding*, int count, int threads);
  void (*sgd)(const SgdTensor*, int count, int threads);
  void (*matmul)(const Matmul*, int threads);
  /// In float64, for arrays of any dtype.
  void (*operate)(int operation, int dtype, const Plan*, const Layout* operands, const Random*,
                  const void* a, const void* b, void* out, int threads);
  void (*span)(const uint32_t* numbers, int64_t count, uint32_t* span);
  void (*hadamard)(int64_t outer, int64_t length, int64_t inner, int64_t size, const void* signs,
                   const void* source, void* target, int threads);
};

QS_END

#define QS_JOIN(a, b) qs_functions_##a##_##b
#define QS_TABLE(variant, dtype) QS_JOIN(variant, dtype)
