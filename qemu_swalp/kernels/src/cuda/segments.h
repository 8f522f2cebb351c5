// Blocks of a format that a thread block of a GPU works on at a time: their extremes and scales in
// shared memory.
#pragma once
#include "common/plan.h"
#include "common/scaled_element.h"
#include "cuda/packs.h"
#include "cuda/short_rounding.h"

QS_BEGIN

/// The scale of a block, a power of two, ready to be used.
template <class C>
struct Segment {
  Constants<C> constants;
  int32_t power;
  Shape shape;
  int32_t nan;
};

template <class C>
union Entry {
  Segment<C> power;
  Scale<C> other;
};

/// What blocks have in common: of scales that are no powers of two the constants; the short
/// rounding of finite numbers under the scale 1.
template <class C>
struct Common {
  Constants<C> constants;
  Constants<Single> constants32;
  Short brief;
};

template <class C>
QS_DEVICE Common<C> common_of(const Plan& plan) {
  Common<C> common{};
  if (!is_power(plan.scaling.rule)) {
    common.constants = constants_of<C>(plan.element, 0);
    common.constants32 = constants_of<Single>(plan.element32, 0);
    if constexpr (C::mantissa == Single::mantissa)
      common.brief = short_of<C>(plan.element32, is_stochastic(plan.mode), false);
  } else if constexpr (is_in_float32<C>) {
    common.brief = short_of<C>(plan.element, is_stochastic(plan.mode), false);
  }
  return common;
}

template <class C>
QS_DEVICE Segment<C> segment_of(const Element& element, int power, bool special, bool nan) {
  return {constants_of<C>(element, power), power, shape_of<C>(element, power, special), nan};
}

template <class Word>
QS_DEVICE void raise(Word* to, Word value) {
  if (value) atomicMax(to, value);
}

template <class C>
QS_DEVICE void raise(Extremes<C>* to, const Extremes<C>& block) {
  raise(&to->amax, block.amax);
  raise(&to->low, block.low);
  raise(&to->special, block.special);
}

template <class C>
QS_DEVICE Extremes<C> wider(const Extremes<C>& a, const Extremes<C>& b) {
  return {greatest_of(a.amax, b.amax), greatest_of(a.low, b.low),
          greatest_of(a.special, b.special)};
}

/// The greatest value of a warp.
template <class Word>
QS_DEVICE Word greatest_of_warp(Word value) {
  for (int step = 16; step > 0; step /= 2)
    value = greatest_of(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  return value;
}

/// What the threads of a warp raise together.
template <class C>
QS_DEVICE void raise_by_warp(Extremes<C>* to, const Extremes<C>& block) {
  const Extremes<C> all{greatest_of_warp(block.amax), greatest_of_warp(block.low),
                        greatest_of_warp(block.special)};
  if (threadIdx.x % 32 == 0) raise(to, all);
}

/// Extremes of the elements of a pack that stand in the same columns of several rows.
template <class C>
struct PackExtremes {
  typename C::Word amax[pack_size<C>], low[pack_size<C>];
  uint32_t infinite, nan;  // bit i: of element i

  QS_DEVICE void widen(const Pack<C>& pack, bool signs) {
    using Word = typename C::Word;
    for (int i = 0; i < pack_size<C>; ++i) {
      const Word raw = pack.at[i], magnitude = raw & (C::sign - 1),
                 finite = magnitude < C::infinity ? magnitude : 0;
      const bool below = signs && (raw & C::sign);
      amax[i] = greatest_of(amax[i], below ? Word(0) : finite);
      low[i] = greatest_of(low[i], below ? finite : Word(0));
      infinite |= uint32_t(magnitude == C::infinity) << i;
      nan |= uint32_t(magnitude > C::infinity) << i;
    }
  }
  QS_DEVICE Extremes<C> at(int i) const {
    return {amax[i], low[i], greatest_of((nan >> i & 1) * 2, infinite >> i & 1)};
  }
  QS_DEVICE Extremes<C> all() const {
    Extremes<C> all_of_pack{0, 0, typename C::Word(nan ? 2 : infinite ? 1 : 0)};
    for (int i = 0; i < pack_size<C>; ++i) {
      all_of_pack.amax = greatest_of(all_of_pack.amax, amax[i]);
      all_of_pack.low = greatest_of(all_of_pack.low, low[i]);
    }
    return all_of_pack;
  }
};

/// Scales of blocks, by all threads.
template <class C>
QS_DEVICE void settle(const Plan& plan, const GlobalScale& global, const Extremes<C>* extremes,
                      int count, Entry<C>* scales) {
  for (int s = threadIdx.x; s < count; s += threads) {
    const Scale<C> scale = scale_of<C>(extremes[s], global, plan.element, plan.scaling);
    if (is_power(plan.scaling.rule)) {
      scales[s].power = segment_of<C>(plan.element, scale.power, scale.special, scale.nan);
    } else {
      scales[s].other = scale;
    }
  }
}

// What is seldom asked for is called, not inlined: else a kernel takes minutes to compile.

template <class C, class M>
__device__ __noinline__ typename C::Word round_any(M mode, typename C::Word raw,
                                                   typename C::Word word, const Segment<C>& s,
                                                   const Element& element) {
  return round_element<C, Shape::any>(mode, raw, word, s.constants, element, s.power);
}

template <class C, class M>
__device__ __noinline__ typename C::Word round_by_table(M mode, typename C::Word raw,
                                                        typename C::Word word, const Table& table) {
  return round_to_table<C>(mode, raw, uint64_t(word) << (64 - C::width), table);
}

template <class C, class M>
__device__ __noinline__ typename C::Word round_by_quotient(M mode, typename C::Word raw,
                                                           typename C::Word word,
                                                           const Scale<C>& scale,
                                                           const Common<C>& common,
                                                           const Plan& plan) {
  if (scale.nan) return C::nan;
  return round_scaled<C>(mode, raw, word, scale, common.constants, common.constants32, plan.element,
                         plan.scaling.rule);
}

template <class C, class M>
QS_DEVICE typename C::Word round_by(M mode, typename C::Word raw, typename C::Word word,
                                    const Segment<C>& s, const Element& element) {
  if (s.nan) return C::nan;
  if (s.shape == Shape::saturating)
    return round_element<C, Shape::saturating>(mode, raw, word, s.constants, element, s.power);
  if (s.shape == Shape::regular)
    return round_element<C, Shape::regular>(mode, raw, word, s.constants, element, s.power);
  return round_any<C>(mode, raw, word, s, element);
}

/// An element under the scale of its block.
template <class C, class M>
QS_DEVICE typename C::Word round_under(M mode, typename C::Word raw, typename C::Word word,
                                       const Entry<C>& entry, const Common<C>& common,
                                       const Plan& plan) {
  if (is_power(plan.scaling.rule)) return round_by<C>(mode, raw, word, entry.power, plan.element);
  return round_by_quotient<C>(mode, raw, word, entry.other, common, plan);
}

/// Whether numbers under this scale are rounded by the short sequence.
template <class C>
QS_DEVICE bool is_brief(const Entry<C>& entry, const Common<C>& common, Rule rule) {
  return is_power(rule) && common.brief.way == Way::saturating && !entry.power.nan &&
         entry.power.shape == Shape::saturating && entry.power.power >= common.brief.least_power &&
         entry.power.power <= common.brief.greatest_power;
}

/// A pack under one scale.
template <class C, class M>
QS_DEVICE void round_pack_under(Pack<C>& pack, const PackWords<pack_size<C>>& words,
                                const Entry<C>& entry, const Common<C>& common, const Plan& plan) {
  using Word = typename C::Word;
  if constexpr (is_short(M()) && is_in_float32<C>) {
    if (is_brief<C>(entry, common, plan.scaling.rule)) {
      const Short s = common.brief.under(entry.power.power);
      return round_by_words<C>(pack, words, [&](Word raw, Word word, int) {
        return round_in_float32<C, Way::saturating, is_stochastic(M())>(raw, word, s);
      });
    }
  }
  if (is_power(plan.scaling.rule) && !entry.power.nan && entry.power.shape == Shape::saturating) {
    const Constants<C> constants = entry.power.constants;
    round_by_words<C>(pack, words, [&](Word raw, Word word, int) {
      return round_element<C, Shape::saturating>(M(), raw, word, constants, plan.element, 0);
    });
  } else {
    round_by_words<C>(pack, words, [&](Word raw, Word word, int) {
      return round_under<C>(M(), raw, word, entry, common, plan);
    });
  }
}

QS_END
