// Blocks whose numbers threads hold between the search for a scale and the rounding, so that an
// array is read once: side by side in memory, all of the same number of whole packs.
//
// Every thread computes the scale of its block: that costs less than to wait for one that does.
#pragma once
#include "common/calls.h"
#include "cuda/segments.h"
#include "cuda/short_quotients.h"

QS_BEGIN

constexpr int together = 4;  // packs that a thread holds: their loads wait for none

/// The greatest of so many neighbours, a power of two; by all threads of a warp.
template <class Word>
QS_DEVICE Word greatest_of_lanes(Word value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2)
    value = greatest_of(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  return value;
}

/// Extremes of what neighbours hold of one block, by all threads of a warp.
template <class C>
QS_DEVICE Extremes<C> extremes_of_lanes(const Extremes<C>& own, int lanes, bool signs) {
  using Word = typename C::Word;
  return {greatest_of_lanes(own.amax, lanes), signs ? greatest_of_lanes(own.low, lanes) : Word(0),
          __any_sync(0xFFFFFFFFu, own.special) ? greatest_of_lanes(own.special, lanes) : Word(0)};
}

template <class C>
QS_DEVICE Extremes<C> extremes_of_pack(const Pack<C>& pack, bool signs) {
  typename C::Word top = 0;
  for (int i = 0; i < pack_size<C>; ++i)
    top = greatest_of(top, typename C::Word(pack.at[i] & (C::sign - 1)));
  if (!signs && top < C::infinity) return {top, 0, 0};
  PackExtremes<C> extremes{};
  extremes.widen(pack, signs);
  return extremes.all();
}

template <class C>
QS_DEVICE GlobalScale global_of(const QuantizeCall& call) {
  if (!call.whole) return {};
  const Extremes<C>* whole = static_cast<const Extremes<C>*>(call.whole);
  return global_scale_of(to_binary32<C>(whole->amax), call.plan.scaling);
}

/// A scale that is no power of two.
template <class C>
__device__ __noinline__ Scale<C> other_scale(Extremes<C> extremes, GlobalScale global,
                                             const Plan* plan) {
  return scale_of<C>(extremes, global, plan->element, plan->scaling);
}

/// A pack under a scale, by whatever it needs.
template <class C, class M>
__device__ __noinline__ Pack<C> rounded_under(Pack<C> pack, PackWords<pack_size<C>> words,
                                              Scale<C> scale, const Common<C>* common,
                                              const Plan* plan) {
  Entry<C> entry;
  if (is_power(plan->scaling.rule)) {
    entry.power = segment_of<C>(plan->element, scale.power, scale.special, scale.nan);
  } else {
    entry.other = scale;
  }
  round_by_words<C>(pack, words, [&](typename C::Word raw, typename C::Word word, int) {
    return round_under<C>(M(), raw, word, entry, *common, *plan);
  });
  return pack;
}

/// How the packs of an array are rounded under scales of their own. common: in shared memory.
template <class C, class M>
class HeldRounder {
 public:
  QS_DEVICE HeldRounder(const QuantizeCall& call, Common<C>* common)
      : plan_(&call.plan),
        common_(common),
        random_(is_stochastic(M()) ? now(call.random) : Random{}),
        global_(global_of<C>(call)) {
    if (threadIdx.x == 0) *common = common_of<C>(call.plan);
    __syncthreads();
    brief_ = common->brief;
  }

  QS_DEVICE Scale<C> scale(const Extremes<C>& extremes) const {
    if (!is_power(plan_->scaling.rule)) return other_scale<C>(extremes, global_, plan_);
    Scale<C> scale{};
    scale.power = int(signed_of(powers_of<C, typename C::Word>(extremes.amax, plan_->scaling)));
    scale.nan = is_spoiled<C>(extremes.special, plan_->scaling);
    scale.special = extremes.special;
    return scale;
  }

  /// Whether packs under this scale are rounded by the short sequence.
  QS_DEVICE bool is_brief(const Scale<C>& scale) const {
    return is_power(plan_->scaling.rule) && brief_.way == Way::saturating && !scale.special &&
           scale.power >= brief_.least_power && scale.power <= brief_.greatest_power;
  }

  QS_DEVICE Short brief(const Scale<C>& scale) const { return brief_.under(scale.power); }

  /// at: the first element.
  QS_DEVICE void round(Pack<C>& pack, int64_t at, const Scale<C>& scale) const {
    PackWords<pack_size<C>> words{};
    if (is_stochastic(M()))
      words = words_from<pack_size<C>, 0>(uint64_t(at) + random_.offset, random_);
    if constexpr (is_short(M()) && is_in_float32<C>) {
      if (is_brief(scale)) {
        const Short s = brief(scale);
        return round_by_words<C>(
            pack, words, [&](typename C::Word raw, typename C::Word word, int) {
              return round_in_float32<C, Way::saturating, is_stochastic(M())>(raw, word, s);
            });
      }
    }
    if constexpr (is_short(M()) && C::mantissa == Single::mantissa) {
      if (round_quotients(pack, words, scale)) return;
    }
    pack = rounded_under<C, M>(pack, words, scale, common_, plan_);
  }

 private:
  /// False, and nothing is done, where a number needs its exact quotient.
  QS_DEVICE bool round_quotients(Pack<C>& pack, const PackWords<pack_size<C>>& words,
                                 const Scale<C>& scale) const {
    ShortScale by;
    if (brief_.way != Way::saturating || !short_scale_of(scale, plan_->scaling.rule, by))
      return false;
    bool unsure = false;
    Pack<C> rounded = pack;
    round_by_words<C>(rounded, words, [&](typename C::Word raw, typename C::Word word, int) {
      return round_quotient_shortly<is_stochastic(M())>(raw, word, by, brief_, unsure);
    });
    if (!unsure) pack = rounded;
    return !unsure;
  }

  const Plan* plan_;
  const Common<C>* common_;
  Random random_;
  GlobalScale global_;
  Short brief_;
};

/// The packs that a thread holds of `last` elements from `first` on.
template <class C>
struct Held {
  static constexpr int size = pack_size<C>;
  Pack<C> at[together];
  int64_t first, last;  // of this thread
  int apart;

  QS_DEVICE Held(const QuantizeCall& call, int64_t first, int64_t last, int apart)
      : first(first), last(last), apart(apart) {
    const typename C::Stored* from = static_cast<const typename C::Stored*>(call.source);
    QS_UNROLL
    for (int i = 0; i < together; ++i)
      at[i] = element(i) < last ? load_whole<C>(from + element(i)) : Pack<C>{};
  }
  QS_DEVICE int64_t element(int i) const { return first + int64_t(i) * apart; }

  QS_DEVICE void store(const QuantizeCall& call) const {
    typename C::Stored* to = static_cast<typename C::Stored*>(call.target);
    QS_UNROLL
    for (int i = 0; i < together; ++i) {
      if (element(i) < last) store_whole<C>(to + element(i), at[i]);
    }
  }
};

/// Blocks of a pack for each of `call.width` threads, a power of two up to a warp.
template <class C, class M>
QS_DEVICE void round_groups(const QuantizeCall& call, const HeldRounder<C, M>& rounder) {
  constexpr int apart = threads * pack_size<C>;
  const bool signs = call.plan.scaling.rule == Rule::minmax;
  for (int64_t base = int64_t(blockIdx.x) * together * apart; base < call.counts.columns;
       base += int64_t(gridDim.x) * together * apart) {
    Held<C> held(call, base + int64_t(threadIdx.x) * pack_size<C>, call.counts.columns, apart);
    QS_UNROLL
    for (int i = 0; i < together; ++i) {
      const Extremes<C> own = extremes_of_pack<C>(held.at[i], signs);
      const Scale<C> scale = rounder.scale(extremes_of_lanes<C>(own, call.width, signs));
      rounder.round(held.at[i], held.element(i), scale);
    }
    held.store(call);
  }
}

/// Blocks of some packs for each thread of a team of `call.width`: a warp, or the thread block.
/// partial: in shared memory, for each warp, two times.
template <class C, class M>
QS_DEVICE void round_rows(const QuantizeCall& call, const HeldRounder<C, M>& rounder,
                          Extremes<C> (*partial)[threads / 32]) {
  const bool signs = call.plan.scaling.rule == Rule::minmax;
  const int team = call.width, side = lead(uint32_t(team));  // a shift: it is a power of two
  const int64_t length = call.counts.segment;
  int turn = 0;
  for (int64_t row = (int64_t(blockIdx.x) * threads + threadIdx.x) >> side;
       row < call.counts.segments; row += (int64_t(gridDim.x) * threads) >> side) {
    Held<C> held(call, row * length + int64_t(threadIdx.x & (team - 1)) * pack_size<C>,
                 (row + 1) * length, team * pack_size<C>);
    Extremes<C> all{0, 0, 0};
    QS_UNROLL
    for (int i = 0; i < together; ++i) all = wider(all, extremes_of_pack<C>(held.at[i], signs));
    all = extremes_of_lanes<C>(all, 32, signs);
    if (team > 32) {  // the other half is read until all have come here again
      turn ^= 1;
      if (threadIdx.x % 32 == 0) partial[turn][threadIdx.x / 32] = all;
      __syncthreads();
      for (int warp = 0; warp < threads / 32; ++warp) all = wider(all, partial[turn][warp]);
    }
    const Scale<C> scale = rounder.scale(all);
    QS_UNROLL
    for (int i = 0; i < together; ++i) {
      if (held.element(i) < held.last) rounder.round(held.at[i], held.element(i), scale);
    }
    held.store(call);
  }
}

QS_END
