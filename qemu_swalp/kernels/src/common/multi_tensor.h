// Many tensors in one call, each rounded in chunks: what a call is told.
#pragma once
#include "common/plan.h"

QS_BEGIN

/// How a tensor is rounded in chunks of whole blocks; `plan` null: not at all.
struct ChunkedRounding {
  const Plan* plan;
  const Layout *chunk, *last;  // of a chunk, and of the last one, which may be shorter
  const Layout* order;         // on a GPU: see `Chunks.order`; null: C order
  Random random;
};

/// A contiguous tensor to round; the target may be the source.
struct TensorRounding {
  Dtype dtype;
  int64_t elements, chunk_elements;
  const void* source;
  void* target;
  ChunkedRounding rounding;
};

QS_END
