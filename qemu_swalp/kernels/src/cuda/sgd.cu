// Steps of quantized SGD of many tensors in one launch, compiled for a source dtype,
// QS_SOURCE_DTYPE, and the rounding modes of the roles, QS_GRADIENT to QS_WEIGHT; QS_ACCUMULATES:
// whether there are accumulators.
#include "cuda/chunks.h"

QS_BEGIN

using Float = FloatOf<Stored>::Type;

/// All of a step on a pack but its roundings: velocity and start become the next velocity and what
/// the weight moves to.
QS_DEVICE void step_pack(const SgdTensor& t, const Hyper<Float>& hyper, const Pack<C>& gradient,
                         const Pack<C>& weight, Pack<C>& velocity, Pack<C>& start) {
  for (int i = 0; i < size; ++i) {
    Float g = bits_as<Float>(gradient.at[i]);
    if (t.maximize) g = negated(g);
    if (t.has_decay) g = hyper.decayed(g, bits_as<Float>(weight.at[i]));
    Float update = g;
    if (t.has_momentum) {
      const Float v = t.velocity ? hyper.velocity(bits_as<Float>(velocity.at[i]), g) : g;
      update = t.nesterov ? hyper.ahead(g, v) : v;
      velocity.at[i] = bits_as<Stored>(v);
    }
    start.at[i] = bits_as<Stored>(hyper.moved(bits_as<Float>(start.at[i]), update));
  }
}

/// The step of a chunk. moved: rounds what the weight moves to.
template <class Gradient, class Momentum, class Moved>
QS_DEVICE void step_chunk(const SgdTensor& t, int64_t first, int64_t n, const Gradient& gradient,
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
  const Hyper<Float> hyper(t);
  const Common<C> of_gradient = gradient.common();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> g = load_from(t.gradient, first + at, count), velocity{};
    const Pack<C> weight = load_from(t.weight, first + at, count);
    Pack<C> start = t.accumulator ? load_from(t.accumulator, first + at, count) : weight;
    if (t.has_momentum && t.velocity) velocity = load_from(t.velocity, first + at, count);
    gradient.round(g, at, count, of_gradient);
    step_pack(t, hyper, g, weight, velocity, start);
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

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads) qs_sgd(const __grid_constant__ SgdCall call) {
  __shared__ Scales scales[2];
  __shared__ Segment<C> singles[4];
  each_chunk(call, [&](const SgdTensor& t, int64_t first, int64_t n, bool is_last) {
    const ChunkRounder<Mode::QS_GRADIENT> gradient(t.gradient_rounding, is_last, first, &scales[0],
                                                   &singles[0]);
    const ChunkRounder<Mode::QS_MOMENTUM> momentum(t.momentum_rounding, is_last, first, &scales[1],
                                                   &singles[1]);
#if QS_ACCUMULATES
    const ChunkRounder<Mode::QS_ACCUMULATOR> accumulator(t.accumulator_rounding, is_last, first,
                                                         &scales[0], &singles[2]);
    const ChunkRounder<Mode::QS_WEIGHT> weight(t.weight_rounding, is_last, first, &scales[1],
                                               &singles[3]);
    step_chunk(t, first, n, gradient, momentum, accumulator, t.new_accumulator);
    round_chunk(weight, t.new_accumulator, t.new_weight, first, n);
#else
    const ChunkRounder<Mode::QS_WEIGHT> weight(t.weight_rounding, is_last, first, &scales[0],
                                               &singles[2]);
    step_chunk(t, first, n, gradient, momentum, weight, t.new_weight);
#endif
  });
}
