// Steps of quantized SGD of many tensors in one launch, compiled for a carrier, QS_CARRIER, and the
// rounding modes of the roles, QS_GRADIENT to QS_WEIGHT; QS_ACCUMULATES: whether there are
// accumulators.
//
// A thread block takes a chunk of a tensor at a time, whole blocks of every role, and each of its
// threads takes packs. What a role is yet to round, where blocks share a scale, waits in the array
// that the result goes to.
#include "common/block_rows.h"
#include "cuda/segments.h"
#include "common/step.h"

QS_BEGIN

using C = QS_CARRIER;
using Lane = C::Lane;
using Stored = C::Stored;

constexpr int size = pack_size<C>;
constexpr int most_blocks = QS_MOST_BLOCKS;  // of a role in a chunk

using Float = FloatOf<Stored>::Type;

/// What a kernel is called with; Python fills it in.
struct SgdCall {
  const Sgd* tensors;
  const uint32_t* first_task;  // of each tensor, and their count: a task is a chunk
  int32_t count;
};

/// Scales of a role in a chunk. Two roles are at work at a time; the extremes of the next may be
/// found while the entries are still in use.
struct Scales {
  Extremes<C> extremes[most_blocks];
  Entry<C> entries[most_blocks];
};

/// The block of an element of a chunk.
QS_DEVICE uint32_t block_of(const Layout& layout, uint32_t element) {
  uint32_t block = 0, stride = 1;
  for (int a = layout.axes - 1; a > 0; --a) {
    const uint32_t length = uint32_t(layout.lengths[a]), extent = uint32_t(layout.extents[a]);
    block += element % length / extent * stride;
    element /= length;
    stride *= (length + extent - 1) / extent;
  }
  return block + element / uint32_t(layout.extents[0]) * stride;
}

/// A role in a chunk.
template <Mode mode>
struct ChunkRole {
  const Plan* plan;
  const Layout* layout;
  Random random;
  Scales* scales;
  Segment<C>* single;  // of a format of elements by themselves: the scale 1

  QS_DEVICE ChunkRole(const Role& role, bool is_last, int64_t first, Scales* scales,
                      Segment<C>* single)
      : plan(role.plan),
        layout(is_last ? role.last : role.chunk),
        random{},
        scales(scales),
        single(single) {
    if (!plan || !is_stochastic(mode)) return;
    random = now(role.random);
    random.offset += uint64_t(first);
  }

  /// Whether its elements wait for the scales of their blocks.
  QS_DEVICE bool waits() const { return plan && plan->family == Family::block; }

  QS_DEVICE int blocks() const {
    int count = 1;
    for (int a = 0; a < layout->axes; ++a)
      count *= int(ceiling(layout->lengths[a], layout->extents[a]));
    return count;
  }

  /// Before extremes are found.
  QS_DEVICE void begin() const {
    if (waits()) {
      for (int s = threadIdx.x; s < blocks(); s += threads) scales->extremes[s] = {0, 0, 0};
    } else if (plan && plan->family == Family::element && threadIdx.x == 0) {
      *single = segment_of<C>(plan->element, 0, true, false);
    }
  }

  /// Once they are.
  QS_DEVICE void end() const {
    if (waits()) settle(*plan, Above{}, scales->extremes, blocks(), scales->entries);
  }

  /// Extremes of a pack, by all threads of a warp; count 0 where a thread has none.
  QS_DEVICE void widen(const Pack<C>& pack, uint32_t at, int count) const {
    PackExtremes<C> found{};
    if (count) found.widen(pack, plan->scaling.rule == Rule::minmax);
    const uint32_t first = count ? block_of(*layout, at) : 0;
    bool whole = count == 0 || layout->axes == 1;
    if (whole && count) whole = block_of(*layout, at + uint32_t(count) - 1) == first;
    const uint32_t shared = __shfl_sync(0xFFFFFFFFu, first, 0);
    if (__all_sync(0xFFFFFFFFu, count == 0 || (whole && first == shared))) {
      raise_by_warp(&scales->extremes[shared], found.all());
    } else if (whole) {
      raise(&scales->extremes[first], found.all());
    } else {
      for (int i = 0; i < size; ++i) {
        if (i < count) raise(&scales->extremes[block_of(*layout, at + uint32_t(i))], found.at(i));
      }
    }
  }

  /// A pack rounded. Called, not inlined: else registers do not suffice.
  __device__ __noinline__ Pack<C> rounded(Pack<C> pack, uint32_t at, int count,
                                          const Common<C>& common) const {
    if (waits() && layout->axes == 1 && count) {
      const uint32_t block = block_of(*layout, at);
      if (block_of(*layout, at + uint32_t(count) - 1) == block) {
        round_pack_under<C, Known<mode>>(pack, random, at, count, scales->entries[block], common,
                                         *plan);
        return pack;
      }
    }
    round_pack<C, is_stochastic(mode)>(pack, random, at, count, [&](Lane raw, Lane word, int i) {
      if (plan->family == Family::table)
        return round_by_table<C>(Known<mode>(), raw, word, plan->table);
      if (plan->family == Family::element)
        return round_by<C>(Known<mode>(), raw, word, *single, plan->element);
      const uint32_t block = i < count ? block_of(*layout, at + uint32_t(i)) : 0;
      return round_under<C>(Known<mode>(), raw, word, scales->entries[block], common, *plan);
    });
    return pack;
  }

  QS_DEVICE void round(Pack<C>& pack, uint32_t at, int count, const Common<C>& common) const {
    if (plan) pack = rounded(pack, at, count, common);
  }

  QS_DEVICE Common<C> common() const { return waits() ? common_of<C>(*plan) : Common<C>{}; }

  /// Rounded, or as it is, to wait.
  QS_DEVICE void take(Pack<C>& pack, uint32_t at, int count) const {
    if (waits()) {
      widen(pack, at, count);
    } else {
      round(pack, at, count, {});
    }
  }
};

/// work(first element, how many) for the packs of a chunk that are this thread's; 0 where a warp
/// has one more.
template <class Work>
QS_DEVICE void each_pack(int64_t elements, Work work) {
  for (int64_t base = 0; base < elements; base += threads * size) {
    const int64_t at = base + int64_t(threadIdx.x) * size;
    work(uint32_t(at), int(greatest_of<int64_t>(0, least_of<int64_t>(size, elements - at))));
  }
}

QS_DEVICE Pack<C> load_from(const void* array, int64_t element, int count) {
  return load<C>(static_cast<const Stored*>(array) + element, count);
}

QS_DEVICE void store_to(void* array, int64_t element, const Pack<C>& pack, int count) {
  store<C>(static_cast<Stored*>(array) + element, pack, count);
}

/// Rounds what waits in an array.
template <Mode mode>
QS_DEVICE void finish(const ChunkRole<mode>& role, void* array, int64_t first, int64_t elements) {
  if (!role.waits()) return;
  const Common<C> common = role.common();
  each_pack(elements, [&](uint32_t at, int count) {
    Pack<C> pack = load_from(array, first + at, count);
    role.round(pack, at, count, common);
    store_to(array, first + at, pack, count);
  });
}

/// All of a step on a pack but its roundings: velocity and start become the next velocity and what
/// the weight moves to.
QS_DEVICE void step_pack(const Sgd& t, const Numbers<Float>& numbers, const Pack<C>& gradient,
                         const Pack<C>& weight, Pack<C>& velocity, Pack<C>& start) {
  for (int i = 0; i < size; ++i) {
    Float g = bits_as<Float>(gradient.at[i]);
    if (t.maximize) g = -g;
    if (t.has_decay) g = numbers.decayed(g, bits_as<Float>(weight.at[i]));
    Float update = g;
    if (t.has_momentum) {
      const Float v = t.velocity ? numbers.velocity(bits_as<Float>(velocity.at[i]), g) : g;
      update = t.nesterov ? numbers.ahead(g, v) : v;
      velocity.at[i] = bits_as<Stored>(v);
    }
    start.at[i] = bits_as<Stored>(numbers.moved(bits_as<Float>(start.at[i]), update));
  }
}

/// The step of a chunk. moved: the role that rounds what the weight moves to.
template <class Gradient, class Momentum, class Moved>
QS_DEVICE void step_chunk(const Sgd& t, int64_t first, int64_t n, const Gradient& gradient,
                          const Momentum& momentum, const Moved& moved, void* moved_to) {
  gradient.begin();
  momentum.begin();
  __syncthreads();
  if (gradient.waits()) {
    each_pack(n, [&](uint32_t at, int count) {
      gradient.widen(load_from(t.gradient, first + at, count), at, count);
    });
    __syncthreads();
    gradient.end();
    __syncthreads();
  }
  moved.begin();
  __syncthreads();
  const Numbers<Float> numbers(t);
  const Common<C> of_gradient = gradient.common();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> g = load_from(t.gradient, first + at, count), velocity{};
    const Pack<C> weight = load_from(t.weight, first + at, count);
    Pack<C> start = t.accumulator ? load_from(t.accumulator, first + at, count) : weight;
    if (t.has_momentum && t.velocity) velocity = load_from(t.velocity, first + at, count);
    gradient.round(g, at, count, of_gradient);
    step_pack(t, numbers, g, weight, velocity, start);
    if (t.has_momentum) {
      momentum.take(velocity, at, count);
      store_to(t.new_velocity, first + at, velocity, count);
    }
    moved.take(start, at, count);
    store_to(moved_to, first + at, start, count);
  });
  __syncthreads();
  momentum.end();
  moved.end();
  __syncthreads();
  finish(momentum, t.new_velocity, first, n);
  finish(moved, moved_to, first, n);
}

/// Rounds a chunk that is there, to another array.
template <class Second>
QS_DEVICE void round_chunk(const Second& role, const void* from, void* to, int64_t first,
                           int64_t n) {
  role.begin();
  __syncthreads();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> pack = load_from(from, first + at, count);
    role.take(pack, at, count);
    store_to(to, first + at, pack, count);
  });
  __syncthreads();
  role.end();
  __syncthreads();
  finish(role, to, first, n);
}

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads) qs_sgd(const __grid_constant__ SgdCall call) {
  __shared__ Scales scales[2];
  __shared__ Segment<C> singles[4];
  for (uint32_t task = blockIdx.x; task < call.first_task[call.count]; task += gridDim.x) {
    int below = 0, above = call.count;  // the tensor lies in [below, above)
    while (above - below > 1) {
      const int middle = (below + above) / 2;
      (call.first_task[middle] <= task ? below : above) = middle;
    }
    const Sgd& t = call.tensors[below];
    const int64_t first = int64_t(task - call.first_task[below]) * t.chunk_elements;
    const int64_t n = least_of(t.chunk_elements, t.elements - first);
    const bool is_last = first + n == t.elements;
    if (!t.gradient) {
      const ChunkRole<Mode::QS_WEIGHT> weight(t.weight_role, is_last, first, &scales[0],
                                              &singles[0]);
      round_chunk(weight, t.weight, t.new_weight, first, n);
      __syncthreads();
      continue;
    }
    const ChunkRole<Mode::QS_GRADIENT> gradient(t.gradient_role, is_last, first, &scales[0],
                                                &singles[0]);
    const ChunkRole<Mode::QS_MOMENTUM> momentum(t.momentum_role, is_last, first, &scales[1],
                                                &singles[1]);
#if QS_ACCUMULATES
    const ChunkRole<Mode::QS_ACCUMULATOR> accumulator(t.accumulator_role, is_last, first,
                                                      &scales[0], &singles[2]);
    const ChunkRole<Mode::QS_WEIGHT> weight(t.weight_role, is_last, first, &scales[1], &singles[3]);
    step_chunk(t, first, n, gradient, momentum, accumulator, t.new_accumulator);
    round_chunk(weight, t.new_accumulator, t.new_weight, first, n);
#else
    const ChunkRole<Mode::QS_WEIGHT> weight(t.weight_role, is_last, first, &scales[0], &singles[2]);
    step_chunk(t, first, n, gradient, momentum, weight, t.new_weight);
#endif
    __syncthreads();
  }
}
