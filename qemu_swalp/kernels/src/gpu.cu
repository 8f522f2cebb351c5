// The kernels on a GPU, compiled for a carrier and a rounding mode: QS_CARRIER and QS_MODE.
//
// Elements: `qs_round`. Blocks of which a window holds some whole ones: `qs_blocks`. Larger ones in two passes: the
// extremes of all of them by `qs_reduce`, into memory that is zero, then `qs_blocks`. Under two levels of scales the
// extremes of the array come first, as those of one block.
#include "windows.h"

QS_BEGIN

using C = QS_CARRIER;
using Mode_ = Known<Mode::QS_MODE>;
using Lane = C::Lane;
using Stored = C::Stored;

constexpr int size = pack_size<C>;
constexpr bool stochastic = is_stochastic(Mode::QS_MODE);

/// Extremes of the elements of a pack that stand at the same place in several rows.
struct PackExtremes {
  Lane amax[size], low[size];
  uint32_t nan;  // bit i: of place i
};

/// Scale of a segment of a window, ready to be used.
struct Segment {
  Steps<C> steps;
  int32_t power;
  Shape shape;
  int32_t nan;
};

union Entry {
  Segment power;
  Scale<C> other;
};

struct Shared {
  Extremes<C> extremes[most_segments];
  Entry scales[most_segments];
};

QS_DEVICE const Stored* source_of(const Call& call) { return static_cast<const Stored*>(call.source); }
QS_DEVICE Stored* target_of(const Call& call) { return static_cast<Stored*>(call.target); }

QS_DEVICE Random random_of(const Call& call) {
  Random random = call.random;
  if (stochastic && random.step_at) random.step = *random.step_at;
  return random;
}

/// round(raw, word, place) for the elements of a pack, in place.
template <class Round>
QS_DEVICE void round_pack(Pack<C>& pack, const Random& random, int64_t element, int count, Round round) {
  PackWords<size> words{};
  if (stochastic) words = pack_words<size>(random, uint64_t(element), count);
  for (int i = 0; i < size; ++i) {
    pack.at[i] = Stored(round(Lane(pack.at[i]), Lane(words.at[i]) << (C::width - 32), i));
  }
}

template <class Round>
QS_DEVICE void round_windows(const Call& call, Round round) {
  const BlockRows blocks(call.layout, call.counts);
  const Random random = random_of(call);
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    each_pack<C>(call, columns, [&](int64_t c, int count) {
      each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
        Pack<C> pack = load<C>(source_of(call) + row.source + c, count);
        round_pack(pack, random, row.element + c, count, round);
        store<C>(target_of(call) + row.target + c, pack, count);
      });
    });
  });
}

template <Shape shape>
QS_DEVICE void round_elements(const Call& call, const Steps<C>& steps) {
  round_windows(call, [&](Lane raw, Lane word, int) {
    return round_element<C, shape>(Mode_(), raw, word, steps, call.plan.element, 0);
  });
}

QS_DEVICE void raise(Lane* to, Lane value) {
  if (value) atomicMax(to, value);
}

/// The greatest value of a warp.
QS_DEVICE Lane greatest_of_warp(Lane value) {
  for (int step = 16; step > 0; step /= 2) value = greatest_of(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  return value;
}

/// Extremes of the segments of a window, which are zero at first, by all threads.
QS_DEVICE void find(const Call& call, const BlockRows& blocks, int64_t b, Range rows, Range columns,
                    Extremes<C>* extremes) {
  const bool signs = call.plan.scaling.rule == Rule::minmax, spreads = call.plan.scaling.spreads_nan;
  const int64_t k = blocks.segment, first = columns.first / k, offset = columns.first - first * k;
  const bool one = offset + columns.size() <= k;
  Extremes<C> all{};
  each_pack<C>(call, columns, [&](int64_t c, int count) {
    PackExtremes found{};
    each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
      const Pack<C> pack = load<C>(source_of(call) + row.source + c, count);
      for (int i = 0; i < size; ++i) {
        const Lane raw = pack.at[i], magnitude = raw & (C::sign - 1);
        const Lane finite = magnitude < C::infinity ? magnitude : 0;
        const bool below = signs && (raw & C::sign);
        found.amax[i] = greatest_of(found.amax[i], below ? Lane(0) : finite);
        found.low[i] = greatest_of(found.low[i], below ? finite : Lane(0));
        found.nan |= uint32_t(spreads && magnitude > C::infinity) << i;
      }
    });
    const uint32_t at = one ? 0 : uint32_t(offset + c - columns.first);  // of an element of the first segment
    const uint32_t segment = one ? 0 : at / uint32_t(k);
    if (one || at + uint32_t(count) <= (segment + 1) * uint32_t(k)) {
      Extremes<C> pack{0, 0, found.nan != 0};
      for (int i = 0; i < size; ++i) {
        pack.amax = greatest_of(pack.amax, found.amax[i]);
        pack.low = greatest_of(pack.low, found.low[i]);
      }
      if (one) {
        all = {greatest_of(all.amax, pack.amax), greatest_of(all.low, pack.low), all.nan | pack.nan};
        return;
      }
      raise(&extremes[segment].amax, pack.amax);
      raise(&extremes[segment].low, pack.low);
      raise(&extremes[segment].nan, pack.nan);
      return;
    }
    for (int i = 0; i < size; ++i) {
      if (i >= count) break;
      Extremes<C>& to = extremes[(at + uint32_t(i)) / uint32_t(k)];
      raise(&to.amax, found.amax[i]);
      raise(&to.low, found.low[i]);
      raise(&to.nan, Lane(found.nan >> i & 1));
    }
  });
  if (!one) return;
  all = {greatest_of_warp(all.amax), greatest_of_warp(all.low), greatest_of_warp(all.nan)};
  if (threadIdx.x % 32 == 0) {
    raise(&extremes->amax, all.amax);
    raise(&extremes->low, all.low);
    raise(&extremes->nan, all.nan);
  }
}

QS_DEVICE int segments_of(const BlockRows& blocks, Range columns) {
  return int(ceiling(columns.last, blocks.segment) - columns.first / blocks.segment);
}

/// Scales of the segments of a window, by all threads.
QS_DEVICE void settle(const Call& call, const Above& above, const Extremes<C>* extremes, int count, Entry* scales) {
  const Plan& plan = call.plan;
  for (int s = threadIdx.x; s < count; s += threads) {
    const Scale<C> scale = scale_of<C>(extremes[s], above, plan.element, plan.scaling);
    if (is_power(plan.scaling.rule)) {
      scales[s].power = {steps_of<C>(plan.element, scale.power), scale.power, shape_of<C>(plan.element, scale.power),
                         int32_t(scale.nan)};
    } else {
      scales[s].other = scale;
    }
  }
}

QS_DEVICE Lane round_by(const Call& call, const Segment& s, Lane raw, Lane word) {
  if (s.nan) return C::nan;
  if (s.shape == Shape::symmetric) {
    return round_element<C, Shape::symmetric>(Mode_(), raw, word, s.steps, call.plan.element, s.power);
  }
  if (s.shape == Shape::regular) {
    return round_element<C, Shape::regular>(Mode_(), raw, word, s.steps, call.plan.element, s.power);
  }
  return round_element<C, Shape::any>(Mode_(), raw, word, s.steps, call.plan.element, s.power);
}

/// Rounds a window under the scales of its segments.
QS_DEVICE void apply(const Call& call, const BlockRows& blocks, const Random& random, const Steps<C>& steps,
                     const Steps<Single>& steps32, int64_t b, Range rows, Range columns, const Entry* scales) {
  const int64_t k = blocks.segment, offset = columns.first % k;
  const bool one = offset + columns.size() <= k, power = is_power(call.plan.scaling.rule);
  each_pack<C>(call, columns, [&](int64_t c, int count) {
    const uint32_t at = one ? 0 : uint32_t(offset + c - columns.first), segment = one ? 0 : at / uint32_t(k);
    const bool within = one || at + uint32_t(count) <= (segment + 1) * uint32_t(k);
    auto entry = [&](int i) -> const Entry& {
      return scales[within || i >= count ? segment : (at + uint32_t(i)) / uint32_t(k)];
    };
    each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
      Pack<C> pack = load<C>(source_of(call) + row.source + c, count);
      round_pack(pack, random, row.element + c, count, [&](Lane raw, Lane word, int i) {
        if (power) return round_by(call, entry(i).power, raw, word);
        const Scale<C>& scale = entry(i).other;
        if (scale.nan) return Lane(C::nan);
        return round_scaled<C>(Mode_(), raw, word, scale, steps, steps32, call.plan.element, call.plan.scaling.rule);
      });
      store<C>(target_of(call) + row.target + c, pack, count);
    });
  });
}

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads) qs_round(const __grid_constant__ Call call) {
  if (call.plan.family == Family::table) {
    return round_windows(call, [&](Lane raw, Lane word, int) {
      return round_to_table<C>(Mode_(), raw, uint64_t(word) << (64 - C::width), call.plan.table);
    });
  }
  const Steps<C> steps = steps_of<C>(call.plan.element, 0);
  switch (shape_of<C>(call.plan.element, 0)) {
    case Shape::symmetric: return round_elements<Shape::symmetric>(call, steps);
    case Shape::regular: return round_elements<Shape::regular>(call, steps);
    default: return round_elements<Shape::any>(call, steps);
  }
}

extern "C" __global__ void __launch_bounds__(threads) qs_reduce(const __grid_constant__ Call call) {
  __shared__ Extremes<C> extremes[most_segments];
  const BlockRows blocks(call.layout, call.counts);
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    const int count = segments_of(blocks, columns);
    for (int s = threadIdx.x; s < count; s += threads) extremes[s] = {0, 0, 0};
    __syncthreads();
    find(call, blocks, b, rows, columns, extremes);
    __syncthreads();
    Extremes<C>* to = static_cast<Extremes<C>*>(call.extremes) + b * blocks.segments + columns.first / blocks.segment;
    for (int s = threadIdx.x; s < count; s += threads) {
      raise(&to[s].amax, extremes[s].amax);
      raise(&to[s].low, extremes[s].low);
      raise(&to[s].nan, extremes[s].nan);
    }
    __syncthreads();
  });
}

extern "C" __global__ void __launch_bounds__(threads) qs_blocks(const __grid_constant__ Call call) {
  __shared__ Shared shared;
  const BlockRows blocks(call.layout, call.counts);
  const Random random = random_of(call);
  Above above{};
  if (call.whole) above = above_blocks(to_binary32<C>(static_cast<const Extremes<C>*>(call.whole)->amax), call.plan.scaling);
  Steps<C> steps{};
  Steps<Single> steps32{};
  if (!is_power(call.plan.scaling.rule)) {
    steps = steps_of<C>(call.plan.element, 0);
    steps32 = steps_of<Single>(call.plan.element32, 0);
  }
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    const int count = segments_of(blocks, columns);
    const Extremes<C>* extremes = shared.extremes;
    if (call.extremes) {
      extremes = static_cast<const Extremes<C>*>(call.extremes) + b * blocks.segments + columns.first / blocks.segment;
    } else {
      for (int s = threadIdx.x; s < count; s += threads) shared.extremes[s] = {0, 0, 0};
      __syncthreads();
      find(call, blocks, b, rows, columns, shared.extremes);
    }
    __syncthreads();
    settle(call, above, extremes, count, shared.scales);
    __syncthreads();
    apply(call, blocks, random, steps, steps32, b, rows, columns, shared.scales);
  });
}
