// Steps of quantized SGD of many tensors in one launch, compiled for a source dtype,
// QS_SOURCE_DTYPE, and the rounding modes of the roles, QS_GRADIENT to QS_WEIGHT; QS_ACCUMULATES:
// whether there are accumulators.
#include "cuda/chunks.h"

QS_BEGIN

using Float = FloatOf<Stored>::Type;

/// The arrays of a chunk.
struct Arrays {
  Numbers<C> gradient, weight, velocity, accumulator, new_weight, new_velocity, new_accumulator;
  Numbers<C> waiting_velocity, waiting_moved;  // for scales

  QS_DEVICE Arrays(const SgdTensor& t, int64_t first, const SgdCall& call)
      : gradient(t.gradient, t.stored, first),
        weight(t.weight, t.stored, first),
        velocity(t.velocity, t.stored, first),
        accumulator(t.accumulator, t.stored, first),
        new_weight(t.new_weight, t.stored, first),
        new_velocity(t.new_velocity, t.stored, first),
        new_accumulator(t.new_accumulator, t.stored, first),
        waiting_velocity(new_velocity),
        waiting_moved(QS_ACCUMULATES ? new_accumulator : new_weight) {
    if (t.stored == t.dtype) return;
    const int64_t room = int64_t(blockIdx.x) * 2 * call.room;
    waiting_velocity = {call.waiting, t.dtype, room};
    waiting_moved = {call.waiting, t.dtype, room + call.room};
  }
};

/// How a step goes: in registers, since what is stored between might change what is pointed to.
struct Step {
  Hyper<Float> hyper;
  bool nesterov, maximize, has_momentum, has_decay, has_velocity, has_accumulator;

  QS_DEVICE explicit Step(const SgdTensor& t)
      : hyper(t),
        nesterov(t.nesterov),
        maximize(t.maximize),
        has_momentum(t.has_momentum),
        has_decay(t.has_decay),
        has_velocity(t.has_momentum && t.velocity),
        has_accumulator(t.accumulator) {}

  /// All of a step on a pack but its roundings: velocity and start become the next velocity and
  /// what the weight moves to.
  QS_DEVICE void take(const Pack<C>& gradient, const Pack<C>& weight, Pack<C>& velocity,
                      Pack<C>& start) const {
    for (int i = 0; i < size; ++i) {
      Float g = bits_as<Float>(gradient.at[i]);
      if (maximize) g = negated(g);
      if (has_decay) g = hyper.decayed(g, bits_as<Float>(weight.at[i]));
      Float update = g;
      if (has_momentum) {
        const Float v = has_velocity ? hyper.velocity(bits_as<Float>(velocity.at[i]), g) : g;
        update = nesterov ? hyper.ahead(g, v) : v;
        velocity.at[i] = bits_as<Stored>(v);
      }
      start.at[i] = bits_as<Stored>(hyper.moved(bits_as<Float>(start.at[i]), update));
    }
  }
};

/// The step of a chunk. moved: rounds what the weight moves to.
template <class Gradient, class Momentum, class Moved>
QS_DEVICE void step_chunk(const Step& step, const Arrays& arrays, int64_t n,
                          const Gradient& gradient, const Momentum& momentum, const Moved& moved,
                          const Numbers<C>& moved_to) {
  gradient.begin(0);
  momentum.begin(1);
  __syncthreads();
  if (gradient.waits()) {
    each_pack(n, [&](uint32_t at, int count) {
      gradient.widen(arrays.gradient.load(at, count), at, count);
    });
    __syncthreads();
    gradient.end();
    __syncthreads();
  }
  moved.begin(2);
  __syncthreads();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> g = arrays.gradient.load(at, count), velocity{};
    const Pack<C> weight = arrays.weight.load(at, count);
    Pack<C> start = step.has_accumulator ? arrays.accumulator.load(at, count) : weight;
    if (step.has_velocity) velocity = arrays.velocity.load(at, count);
    gradient.round(g, at, count);
    step.take(g, weight, velocity, start);
    if (step.has_momentum) {
      momentum.take(velocity, at, count);
      (momentum.waits() ? arrays.waiting_velocity : arrays.new_velocity).store(at, velocity, count);
    }
    moved.take(start, at, count);
    (moved.waits() ? arrays.waiting_moved : moved_to).store(at, start, count);
  });
  __syncthreads();
  momentum.end();
  moved.end();
  __syncthreads();
  if (step.has_momentum) finish(momentum, arrays.waiting_velocity, arrays.new_velocity, n);
  finish(moved, arrays.waiting_moved, moved_to, n);
}

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads) qs_sgd(const __grid_constant__ SgdCall call) {
  __shared__ Scales scales[2];
  __shared__ Prepared prepared[4];
  each_chunk(call, [&](const SgdTensor& t, int64_t first, int64_t n, bool is_last) {
    const Arrays arrays(t, first, call);
    const Step step(t);
    const ChunkRounder<Mode::QS_GRADIENT> gradient(t.gradient_rounding, is_last, first, &scales[0],
                                                   &prepared[0]);
    const ChunkRounder<Mode::QS_MOMENTUM> momentum(t.momentum_rounding, is_last, first, &scales[1],
                                                   &prepared[1]);
#if QS_ACCUMULATES
    const ChunkRounder<Mode::QS_ACCUMULATOR> accumulator(t.accumulator_rounding, is_last, first,
                                                         &scales[0], &prepared[2]);
    const ChunkRounder<Mode::QS_WEIGHT> weight(t.weight_rounding, is_last, first, &scales[1],
                                               &prepared[3]);
    step_chunk(step, arrays, n, gradient, momentum, accumulator, arrays.new_accumulator);
    round_chunk(weight, arrays.new_accumulator, arrays.new_weight,
                t.stored == t.dtype ? arrays.new_weight : arrays.waiting_moved, n);
#else
    const ChunkRounder<Mode::QS_WEIGHT> weight(t.weight_rounding, is_last, first, &scales[0],
                                               &prepared[2]);
    step_chunk(step, arrays, n, gradient, momentum, weight, arrays.new_weight);
#endif
  });
}
