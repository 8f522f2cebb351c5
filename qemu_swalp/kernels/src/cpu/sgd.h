// Steps of quantized SGD on a CPU, in one pass over memory.
#pragma once
#include "common/sgd.h"
#include "cpu/round_many.h"

QS_BEGIN

/// Working memory of a thread.
template <class C, class Float>
struct SgdScratch {
  Scratch<C> scratch;
  std::vector<Float> gradient, moved;
};

template <class C, class Float>
void step_chunk(const SgdTensor& t, int64_t chunk, SgdScratch<C, Float>& memory) {
  const int64_t first = chunk * t.chunk_elements,
                n = least_of(t.chunk_elements, t.elements - first);
  const bool is_last = first + n == t.elements;
  auto at = [first](const void* array) { return static_cast<const Float*>(array) + first; };
  auto to = [first](void* array) { return static_cast<Float*>(array) + first; };
  memory.gradient.resize(size_t(n));
  memory.moved.resize(size_t(n));
  Float* g = memory.gradient.data();
  Float* moved = memory.moved.data();
  if (t.gradient_rounding.plan) {
    round_chunk<C>(t.gradient_rounding, is_last, first, at(t.gradient), g, memory.scratch);
  } else {
    __builtin_memcpy(g, at(t.gradient), size_t(n) * sizeof(Float));
  }
  const Float* weight = at(t.weight);
  if (t.maximize) {
    for (int64_t i = 0; i < n; ++i) g[i] = -g[i];
  }
  const Hyper<Float> hyper(t);
  if (t.has_decay) {
    for (int64_t i = 0; i < n; ++i) g[i] = hyper.decayed(g[i], weight[i]);
  }
  const Float* start = t.accumulator ? at(t.accumulator) : weight;
  if (t.has_momentum) {
    Float* v = to(t.new_velocity);
    if (t.velocity) {
      const Float* before = at(t.velocity);
      for (int64_t i = 0; i < n; ++i) v[i] = hyper.velocity(before[i], g[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) v[i] = g[i];
    }
    if (t.nesterov) {
      for (int64_t i = 0; i < n; ++i) moved[i] = hyper.moved(start[i], hyper.ahead(g[i], v[i]));
    } else {
      for (int64_t i = 0; i < n; ++i) moved[i] = hyper.moved(start[i], v[i]);
    }
    if (t.momentum_rounding.plan)
      round_chunk<C>(t.momentum_rounding, is_last, first, v, v, memory.scratch);
  } else {
    for (int64_t i = 0; i < n; ++i) moved[i] = hyper.moved(start[i], g[i]);
  }
  const Float* rounded = moved;
  if (t.accumulator_rounding.plan) {
    round_chunk<C>(t.accumulator_rounding, is_last, first, moved, to(t.new_accumulator),
                   memory.scratch);
    rounded = to(t.new_accumulator);
  }
  if (t.weight_rounding.plan) {
    round_chunk<C>(t.weight_rounding, is_last, first, rounded, to(t.new_weight), memory.scratch);
  } else {
    __builtin_memcpy(to(t.new_weight), rounded, size_t(n) * sizeof(Float));
  }
}

QS_END
