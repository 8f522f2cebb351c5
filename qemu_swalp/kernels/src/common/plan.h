// What Python hands to the kernels: plain data, laid out as `plan.py` declares it.
#pragma once
#include "common/philox.h"
#include "common/scales.h"
#include "common/table.h"

QS_BEGIN

enum class Dtype : int32_t { float16, bfloat16, float32, float64 };
enum class Family : int32_t { element, table, block };

/// A format, a rounding and a policy in a source dtype.
struct Plan {
  Dtype dtype;
  Family family;
  Mode mode;
  int32_t random_bits;
  Element element;
  Element element32;  // the same in float32, for scales that are no powers of two
  Scaling scaling;
  Table table;    // of elements under scales: in float64
  Table table32;  // the same in float32, as `TableRun` looks it up
};

constexpr int most_axes = 8;

/// Two arrays of one shape, and the shape of their blocks. Strides in elements; the last axis of
/// both is contiguous.
struct Layout {
  int32_t axes;
  int64_t lengths[most_axes], extents[most_axes], source_strides[most_axes],
      target_strides[most_axes];
};

/// Scales of blocks, and zero points or null, that the caller gives; steps from one block to the
/// next, 0 where all have the same.
struct Given {
  const double* scales;  // in the format of scales
  const int64_t* zero_points;
  int64_t scale_step, zero_point_step;
};

QS_END
