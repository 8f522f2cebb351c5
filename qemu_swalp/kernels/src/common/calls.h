// What the kernels on a GPU, and those in programs of other libraries, are called with; Python
// fills it in.
#pragma once
#include "common/accumulation.h"
#include "common/block_rows.h"
#include "common/sgd.h"

QS_BEGIN

/// Of `cuda/quantize.cu`.
struct QuantizeCall {
  Plan plan;
  Layout layout;
  Counts counts;
  Random random;
  const void* source;
  void* target;
  void* extremes;                 // in two passes: of all blocks
  const void* whole;              // under two levels of scales: the extremes of the array
  int64_t row_step, column_step;  // of a window
  uint64_t row_parts, column_parts, windows;
  int32_t width;  // threads side by side, a power of two
};

/// Of `cuda/round_many.cu`. A task is a chunk.
struct RoundManyCall {
  const TensorRounding* tensors;
  const uint32_t* first_task;  // of each tensor, and their count
  int32_t count;
};

/// Of `cuda/sgd.cu`.
struct SgdCall {
  const SgdTensor* tensors;
  const uint32_t* first_task;
  int32_t count;
  int64_t room;   // elements of the longest chunk of 16-bit numbers
  void* waiting;  // two times `room` numbers of float32 for each thread block
};

/// What float32 numbers of an array need: bits, 255 less the least exponent field, the greatest.
struct Span {
  uint32_t bits, far, most;
};

/// Of `cuda/matmul.cu`, which looks at both operands before their product.
struct SpanCall {
  const uint32_t* arrays[2];
  int64_t counts[2];
  Span* spans;  // zero at first
};

struct MatmulCall {
  Matmul matmul;       // its plans: in float64
  MatmulPlans single;  // in float32
  Layout batches;      // strides, of `source` and `target`: where the matrices of a and b begin
  const Span* spans;   // null: float32 does not do
  int32_t limit;       // greatest binade of products where it does, in a field of float32
};

/// Where a stored call finds its random words.
enum class RandomKind : int32_t { none, words, counters };

/// The floats in whose bits a stored call finds the scales that are given to it.
enum class ScaleKind : int32_t { none, float32, float64 };

/// The first bytes of a call that programs of other libraries hold (`cpu/stored_call.h`). After
/// them: `pointer_count` pairs of uint64 (where in these bytes a pointer stands, and where in all
/// of them what it points to), the arrays.
struct StoredCall {
  uint64_t layouts;  // fingerprint() of the structures that it was written with
  RandomKind random;
  ScaleKind scales;
  int32_t most_zero_point;     // -1: there are none
  int32_t rank;                // of the array that is rounded, without batch axes before it
  int64_t extents[most_axes];  // of blocks; 0: the whole axis
  double least_scale;          // of given scales that need not be powers of two
  uint64_t pointer_count;
  Plan plan;
  Plan scale_plan;  // of numbers that are rounded to the format of given scales
};

QS_END
