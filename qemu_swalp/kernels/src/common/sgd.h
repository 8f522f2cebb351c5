// A step of quantized SGD on one tensor (Yang et al. 2019, algorithms 1 and 2): what it is told,
// and its arithmetic. It equals `training/sgd.py`.
#pragma once
#include "common/float_arithmetic.h"
#include "common/multi_tensor.h"

QS_BEGIN

/// One tensor's step. Arrays are contiguous; what is written may be what is read.
struct SgdTensor {
  Dtype dtype;
  int32_t nesterov, maximize, has_momentum, has_decay;
  Dtype stored;  // of the arrays: `dtype`, or on a GPU one of 16 bits that is computed in float32
  int64_t elements, chunk_elements;
  double learning_rate, momentum, gain, weight_decay;  // gain: 1 - dampening
  const void *gradient, *weight;
  const void *velocity, *accumulator;  // null before the first step
  void *new_weight, *new_velocity, *new_accumulator;
  ChunkedRounding gradient_rounding, momentum_rounding, accumulator_rounding, weight_rounding;
};

/// The hyper-parameters of a step in the dtype of its arrays.
template <class Float>
struct Hyper {
  Float rate, momentum, gain, decay;

  QS_INLINE explicit Hyper(const SgdTensor& t)
      : rate(converted<Float>(t.learning_rate)),
        momentum(converted<Float>(t.momentum)),
        gain(converted<Float>(t.gain)),
        decay(converted<Float>(t.weight_decay)) {}

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
