// One step of quantized SGD in one pass over memory (Yang et al. 2019, algorithms 1 and 2); `training/sgd.py` is what it
// equals. Each product, sum and difference is rounded by itself: compile without contraction.
#pragma once
#include "blocks.h"

QS_BEGIN

/// How a role is rounded, in chunks of rows; `plan` null: not at all.
struct Role {
  const Plan* plan;
  const Layout *chunk, *last;  // of a chunk, and of the last one, which may be shorter
  Random random;
};

/// One tensor's step. Arrays are contiguous; what is written may be what is read.
struct Sgd {
  Dtype dtype;
  int32_t nesterov, maximize, has_momentum, has_decay;
  int64_t elements, chunk_elements;
  double learning_rate, momentum, gain, weight_decay;  // gain: 1 - dampening
  const void *gradient, *weight, *velocity, *accumulator;  // velocity, accumulator: null before they are there
  void *new_weight, *new_velocity, *new_accumulator;
  Role gradient_role, momentum_role, accumulator_role, weight_role;
};

/// Working memory of a thread.
template <class C, class Float>
struct SgdScratch {
  Scratch<C> scratch;
  std::vector<Float> gradient, moved;
};

/// Rounds a chunk of a role in one thread.
template <class C>
void round_chunk(const Role& role, bool is_last, int64_t first, const void* source, void* target, Scratch<C>& scratch) {
  Random random = role.random;
  random.offset += uint64_t(first);
  run_alone(Job<C>(*role.plan, is_last ? *role.last : *role.chunk, random, source, target), scratch);
}

template <class C, class Float>
void step_chunk(const Sgd& t, int64_t chunk, SgdScratch<C, Float>& memory) {
  const int64_t first = chunk * t.chunk_elements, n = least_of(t.chunk_elements, t.elements - first);
  const bool is_last = first + n == t.elements;
  auto at = [first](const void* array) { return static_cast<const Float*>(array) + first; };
  auto to = [first](void* array) { return static_cast<Float*>(array) + first; };
  memory.gradient.resize(size_t(n));
  memory.moved.resize(size_t(n));
  Float* g = memory.gradient.data();
  Float* moved = memory.moved.data();
  if (t.gradient_role.plan) {
    round_chunk<C>(t.gradient_role, is_last, first, at(t.gradient), g, memory.scratch);
  } else {
    __builtin_memcpy(g, at(t.gradient), size_t(n) * sizeof(Float));
  }
  const Float* weight = at(t.weight);
  if (t.maximize) {
    for (int64_t i = 0; i < n; ++i) g[i] = -g[i];
  }
  if (t.has_decay) {
    const Float decay = Float(t.weight_decay);
    for (int64_t i = 0; i < n; ++i) g[i] = g[i] + decay * weight[i];
  }
  const Float rate = Float(t.learning_rate), momentum = Float(t.momentum), gain = Float(t.gain);
  const Float* start = t.accumulator ? at(t.accumulator) : weight;
  if (t.has_momentum) {
    Float* v = to(t.new_velocity);
    if (t.velocity) {
      const Float* before = at(t.velocity);
      for (int64_t i = 0; i < n; ++i) v[i] = momentum * before[i] + gain * g[i];
    } else {
      for (int64_t i = 0; i < n; ++i) v[i] = g[i];
    }
    if (t.nesterov) {
      for (int64_t i = 0; i < n; ++i) moved[i] = start[i] - rate * (g[i] + momentum * v[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) moved[i] = start[i] - rate * v[i];
    }
    if (t.momentum_role.plan) round_chunk<C>(t.momentum_role, is_last, first, v, v, memory.scratch);
  } else {
    for (int64_t i = 0; i < n; ++i) moved[i] = start[i] - rate * g[i];
  }
  const Float* rounded = moved;
  if (t.accumulator_role.plan) {
    round_chunk<C>(t.accumulator_role, is_last, first, moved, to(t.new_accumulator), memory.scratch);
    rounded = to(t.new_accumulator);
  }
  if (t.weight_role.plan) {
    round_chunk<C>(t.weight_role, is_last, first, rounded, to(t.new_weight), memory.scratch);
  } else {
    __builtin_memcpy(to(t.new_weight), rounded, size_t(n) * sizeof(Float));
  }
}

QS_END
