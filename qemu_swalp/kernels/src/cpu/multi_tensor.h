// Steps of quantized SGD on a CPU, in one pass over memory.
#pragma once
#include "cpu/blocks.h"
#include "common/step.h"

QS_BEGIN

/// Working memory of a thread.
template <class C, class Float>
struct SgdScratch {
  Scratch<C> scratch;
  std::vector<Float> gradient, moved;
};

/// Rounds a chunk of a role in one thread.
template <class C>
void round_chunk(const Role& role, bool is_last, int64_t first, const void* source, void* target,
                 Scratch<C>& scratch) {
  Random random = role.random;
  random.offset += uint64_t(first);
  Job<C> job(*role.plan, is_last ? *role.last : *role.chunk, random, source, target);
  run_all(job, [&](auto work) {
    for (int64_t task = 0; task < job.tasks(); ++task) work(task, scratch);
  });
}

template <class C, class Float>
void step_chunk(const Sgd& t, int64_t chunk, SgdScratch<C, Float>& memory) {
  const int64_t first = chunk * t.chunk_elements,
                n = least_of(t.chunk_elements, t.elements - first);
  const bool is_last = first + n == t.elements;
  auto at = [first](const void* array) { return static_cast<const Float*>(array) + first; };
  auto to = [first](void* array) { return static_cast<Float*>(array) + first; };
  if (!t.gradient)
    return round_chunk<C>(t.weight_role, is_last, first, at(t.weight), to(t.new_weight),
                          memory.scratch);
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
  const Numbers<Float> numbers(t);
  if (t.has_decay) {
    for (int64_t i = 0; i < n; ++i) g[i] = numbers.decayed(g[i], weight[i]);
  }
  const Float* start = t.accumulator ? at(t.accumulator) : weight;
  if (t.has_momentum) {
    Float* v = to(t.new_velocity);
    if (t.velocity) {
      const Float* before = at(t.velocity);
      for (int64_t i = 0; i < n; ++i) v[i] = numbers.velocity(before[i], g[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) v[i] = g[i];
    }
    if (t.nesterov) {
      for (int64_t i = 0; i < n; ++i) moved[i] = numbers.moved(start[i], numbers.ahead(g[i], v[i]));
    } else {
      for (int64_t i = 0; i < n; ++i) moved[i] = numbers.moved(start[i], v[i]);
    }
    if (t.momentum_role.plan) round_chunk<C>(t.momentum_role, is_last, first, v, v, memory.scratch);
  } else {
    for (int64_t i = 0; i < n; ++i) moved[i] = numbers.moved(start[i], g[i]);
  }
  const Float* rounded = moved;
  if (t.accumulator_role.plan) {
    round_chunk<C>(t.accumulator_role, is_last, first, moved, to(t.new_accumulator),
                   memory.scratch);
    rounded = to(t.new_accumulator);
  }
  if (t.weight_role.plan) {
    round_chunk<C>(t.weight_role, is_last, first, rounded, to(t.new_weight), memory.scratch);
  } else {
    __builtin_memcpy(to(t.new_weight), rounded, size_t(n) * sizeof(Float));
  }
}

QS_END
