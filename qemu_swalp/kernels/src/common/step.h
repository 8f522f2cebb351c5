// A step of quantized SGD on one tensor (Yang et al. 2019, algorithms 1 and 2): what it is told,
// and its arithmetic; `training/sgd.py` is what it equals. Each product, sum and difference is
// rounded by itself.
#pragma once
#include "common/plan.h"

QS_BEGIN

/// How a role is rounded, in chunks of rows; `plan` null: not at all.
struct Role {
  const Plan* plan;
  const Layout *chunk, *last;  // of a chunk, and of the last one, which may be shorter
  Random random;
};

/// One tensor's step. Arrays are contiguous; what is written may be what is read. Without a
/// gradient the weight is only rounded.
struct Sgd {
  Dtype dtype;
  int32_t nesterov, maximize, has_momentum, has_decay;
  int64_t elements, chunk_elements;
  double learning_rate, momentum, gain, weight_decay;  // gain: 1 - dampening
  const void *gradient, *weight, *velocity,
      *accumulator;  // velocity, accumulator: null before they are there
  void *new_weight, *new_velocity, *new_accumulator;
  Role gradient_role, momentum_role, accumulator_role, weight_role;
};

/// The float of which these are the bits.
template <class Stored>
struct FloatOf;
template <>
struct FloatOf<uint32_t> {
  using Type = float;
};
template <>
struct FloatOf<uint64_t> {
  using Type = double;
};

/// The same bits in another type.
template <class To, class From>
QS_INLINE To bits_as(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

#if defined(__CUDA_ARCH__)  // whatever the compiler is told of contraction and of subnormals
QS_INLINE float multiply(float a, float b) {
  asm("mul.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE float add(float a, float b) {
  asm("add.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE float subtract(float a, float b) {
  asm("sub.rn.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
QS_INLINE double multiply(double a, double b) { return __dmul_rn(a, b); }
QS_INLINE double add(double a, double b) { return __dadd_rn(a, b); }
QS_INLINE double subtract(double a, double b) { return __dsub_rn(a, b); }
#else  // compiled without contraction
template <class Float>
QS_INLINE Float multiply(Float a, Float b) {
  return a * b;
}
template <class Float>
QS_INLINE Float add(Float a, Float b) {
  return a + b;
}
template <class Float>
QS_INLINE Float subtract(Float a, Float b) {
  return a - b;
}
#endif

/// The numbers of a step in the dtype of its arrays.
template <class Float>
struct Numbers {
  Float rate, momentum, gain, decay;

  QS_INLINE explicit Numbers(const Sgd& t)
      : rate(Float(t.learning_rate)),
        momentum(Float(t.momentum)),
        gain(Float(t.gain)),
        decay(Float(t.weight_decay)) {}

  QS_INLINE Float decayed(Float g, Float weight) const { return add(g, multiply(decay, weight)); }
  QS_INLINE Float velocity(Float before, Float g) const {
    return add(multiply(momentum, before), multiply(gain, g));
  }
  QS_INLINE Float ahead(Float g, Float v) const { return add(g, multiply(momentum, v)); }
  QS_INLINE Float moved(Float start, Float update) const {
    return subtract(start, multiply(rate, update));
  }
};

QS_END
