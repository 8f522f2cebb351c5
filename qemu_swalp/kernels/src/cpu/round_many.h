// Many tensors rounded on a CPU, chunk by chunk.
#pragma once
#include "common/multi_tensor.h"
#include "cpu/run_all.h"

QS_BEGIN

/// Rounds a chunk in one thread.
template <class C>
void round_chunk(const ChunkedRounding& rounding, bool is_last, int64_t first, const void* source,
                 void* target, Scratch<C>& scratch) {
  Random random = rounding.random;
  random.offset += uint64_t(first);
  Job<C> job(*rounding.plan, is_last ? *rounding.last : *rounding.chunk, random, source, target);
  run_all(job, [&](auto work) {
    for (int64_t task = 0; task < job.tasks(); ++task) work(task, scratch);
  });
}

/// Rounds a chunk of a tensor.
template <class C>
void round_tensor_chunk(const TensorRounding& t, int64_t chunk, Scratch<C>& scratch) {
  using Stored = typename C::Stored;
  const int64_t first = chunk * t.chunk_elements;
  const bool is_last = first + t.chunk_elements >= t.elements;
  round_chunk<C>(t.rounding, is_last, first, static_cast<const Stored*>(t.source) + first,
                 static_cast<Stored*>(t.target) + first, scratch);
}

QS_END
