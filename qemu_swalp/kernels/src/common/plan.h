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
  Table table;
};

constexpr int most_axes = 8;

/// Two arrays of one shape, and the shape of their blocks. Strides in elements; the last axis of
/// both is contiguous.
struct Layout {
  int32_t axes;
  int64_t lengths[most_axes], extents[most_axes], source_strides[most_axes],
      target_strides[most_axes];
};

QS_END
