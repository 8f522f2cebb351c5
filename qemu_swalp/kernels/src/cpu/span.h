// What float32 numbers of an array need (`Span` of `common/calls.h`), on a CPU.
#pragma once
#include "cpu/rows.h"

QS_BEGIN

/// Of the magnitudes: the bits that any has, the least that is not 0, the greatest.
inline void find_span(const uint32_t* numbers, int64_t count, uint32_t* span) {
  using V = Vectors<Single>;
  const Vector32 none{};
  Vector32 bits{}, below{}, most{};  // below: all bits but those of the least
  in_vectors<V::count>(count, [&](int64_t i, auto lanes) QS_INLINE_LAMBDA {
    const Vector32 magnitude = V::load(numbers + i, lanes) & (Single::sign - 1);
    bits |= magnitude;
    below = greater<Vector32>(
        below, select<Vector32>(magnitude == none, none, Single::sign - 1 - magnitude));
    most = greater<Vector32>(most, magnitude);
  });
  span[0] = 0;
  for (int i = 0; i < V::count; ++i) span[0] |= bits[i];
  span[1] = Single::sign - 1 - greatest_lane(below);
  span[2] = greatest_lane(most);
}

QS_END
