// Chunks of many tensors on a GPU, for programs that are compiled for a source dtype,
// QS_SOURCE_DTYPE.
//
// A thread block takes a chunk of a tensor at a time, whole blocks of every format, and each of its
// threads takes packs. What is yet to be rounded, where blocks share a scale, waits in the array
// that the result goes to, or, since arrays of 16 bits do not hold it, in memory of its own.
#pragma once
#include "common/layouts.h"
#include "cuda/segments.h"
#include "cuda/storage.h"

QS_BEGIN

using C = QS_SOURCE_DTYPE;
using Word = C::Word;
using Stored = C::Stored;

constexpr int size = pack_size<C>;
constexpr int most_blocks = QS_MOST_BLOCKS;  // of a format in a chunk

/// work(tensor, first element, elements, whether it is the last) for the chunks of this thread
/// block.
template <class Call, class Work>
QS_DEVICE void each_chunk(const Call& call, Work work) {
  for (uint32_t task = blockIdx.x; task < call.first_task[call.count]; task += gridDim.x) {
    int below = 0, above = call.count;  // the tensor lies in [below, above)
    while (above - below > 1) {
      const int middle = (below + above) / 2;
      (call.first_task[middle] <= task ? below : above) = middle;
    }
    const auto& t = call.tensors[below];
    const int64_t first = int64_t(task - call.first_task[below]) * t.chunk_elements;
    const int64_t n = least_of(t.chunk_elements, t.elements - first);
    work(t, first, n, first + n == t.elements);
    __syncthreads();
  }
}

/// What the rounding of a chunk keeps in shared memory.
struct Prepared {
  Segment<C> single;  // of a format of elements by themselves: the scale 1
  Common<C> common;
};

/// Scales of a chunk. Two roundings of a step are at work at a time; the extremes of the next may
/// be found while the entries are still in use.
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

/// The number in C order of an element of a tensor by its place in memory.
QS_DEVICE uint64_t number_of(const Layout& order, uint32_t place) {
  uint64_t number = 0;
  for (int a = order.axes - 1; a > 0; --a) {
    const uint32_t length = uint32_t(order.lengths[a]);
    number += uint64_t(place % length) * uint64_t(order.source_strides[a]);
    place /= length;
  }
  return number + place * uint64_t(order.source_strides[0]);
}

// What is called, not inlined, takes its arguments in registers: none is a reference.

/// Random words of neighbours in memory, from a place on, that are none in C order.
__device__ __noinline__ PackWords<size> words_in_order(const Layout* order, Random random,
                                                       uint32_t place, int count) {
  PackWords<size> words{};
  QS_UNROLL
  for (int i = 0; i < size; ++i) {
    if (i >= count) continue;
    const uint64_t number = number_of(*order, place + uint32_t(i));
    const Words four = philox(uint32_t(number / 4), random);
    const uint32_t low = number % 2 ? four.at[1] : four.at[0],
                   high = number % 2 ? four.at[3] : four.at[2];
    words.at[i] = number % 4 < 2 ? low : high;
  }
  return words;
}

/// Those of elements that do not begin a block of random words.
__device__ __noinline__ PackWords<size> words_across(Random random, uint64_t element, int count) {
  return pack_words<size>(random, element, count);
}

/// A pack rounded by whatever it needs.
template <Mode mode>
__device__ __noinline__ Pack<C> rounded_by_any(Pack<C> pack, PackWords<size> words,
                                               const Plan* plan, const Layout* layout,
                                               const Prepared* prepared, const Entry<C>* entries,
                                               uint32_t at, int count) {
  round_by_words<C>(pack, words, [&](Word raw, Word word, int i) {
    if (plan->family == Family::table)
      return round_by_table<C>(Known<mode>(), raw, word, plan->table);
    if (plan->family == Family::element)
      return round_by<C>(Known<mode>(), raw, word, prepared->single, plan->element);
    const uint32_t block = i < count ? block_of(*layout, at + uint32_t(i)) : 0;
    return round_under<C>(Known<mode>(), raw, word, entries[block], prepared->common, *plan);
  });
  return pack;
}

/// The rounding of a chunk.
template <Mode mode>
class ChunkRounder {
 public:
  QS_DEVICE ChunkRounder(const ChunkedRounding& rounding, bool is_last, int64_t first,
                         Scales* scales, Prepared* prepared)
      : plan_(rounding.plan),
        layout_(is_last ? rounding.last : rounding.chunk),
        scales_(scales),
        prepared_(prepared) {
    if (!plan_) return;
    waits_ = plan_->family == Family::block;
    flat_ = layout_->axes == 1;
    extent_ = uint32_t(layout_->extents[0]);
    if (!is_stochastic(mode)) return;
    random_ = rounding.random;
    order_ = rounding.order;
    first_ = uint64_t(first);
  }

  /// Whether its elements wait for the scales of their blocks.
  QS_DEVICE bool waits() const { return waits_; }

  /// Before extremes are found. helper: the number of a warp, one for each rounder.
  QS_DEVICE void begin(int helper) const {
    if (!plan_) return;
    if (waits_) {
      for (int s = threadIdx.x; s < blocks(); s += threads) scales_->extremes[s] = {0, 0, 0};
    }
    if (threadIdx.x != unsigned(helper) * 32) return;
    if (plan_->family == Family::element) {
      prepared_->single = segment_of<C>(plan_->element, 0, true, false);
      if constexpr (is_in_float32<C>)
        prepared_->common.brief = short_of<C>(plan_->element, is_stochastic(mode), true);
    } else if (waits_) {
      prepared_->common = common_of<C>(*plan_);
    }
  }

  /// Once they are.
  QS_DEVICE void end() const {
    if (waits_) settle(*plan_, GlobalScale{}, scales_->extremes, blocks(), scales_->entries);
  }

  /// Extremes of a pack, by all threads of a warp; count 0 where a thread has none.
  QS_DEVICE void widen(const Pack<C>& pack, uint32_t at, int count) const {
    PackExtremes<C> extremes{};
    if (count) extremes.widen(pack, plan_->scaling.rule == Rule::minmax);
    const uint32_t first = count ? block_at(at) : 0;
    bool whole = count == 0 || flat_;
    if (whole && count) whole = block_at(at + uint32_t(count) - 1) == first;
    const uint32_t shared = __shfl_sync(0xFFFFFFFFu, first, 0);
    if (__all_sync(0xFFFFFFFFu, count == 0 || (whole && first == shared))) {
      raise_by_warp(&scales_->extremes[shared], extremes.all());
    } else if (whole) {
      raise(&scales_->extremes[first], extremes.all());
    } else {
      for (int i = 0; i < size; ++i) {
        if (i < count) raise(&scales_->extremes[block_at(at + uint32_t(i))], extremes.at(i));
      }
    }
  }

  QS_DEVICE void round(Pack<C>& pack, uint32_t at, int count) const {
    if (!plan_ || !count) return;
    PackWords<size> words{};
    if (is_stochastic(mode)) words = words_of(at, count);
    if constexpr (is_short(mode) && is_in_float32<C>) {
      if (waits_) {
        const uint32_t block = block_at(at);
        if (flat_ && block_at(at + uint32_t(count) - 1) == block &&
            is_brief<C>(scales_->entries[block], prepared_->common, plan_->scaling.rule)) {
          const Short s = prepared_->common.brief.under(scales_->entries[block].power.power);
          return round_shortly<Way::saturating>(pack, words, s);
        }
      } else if (plan_->family == Family::element) {
        const Short s = prepared_->common.brief;
        if (s.way == Way::saturating) return round_shortly<Way::saturating>(pack, words, s);
        if (s.way == Way::regular) return round_shortly<Way::regular>(pack, words, s);
        if (s.way == Way::bits) return round_shortly<Way::bits>(pack, words, s);
      }
    }
    pack =
        rounded_by_any<mode>(pack, words, plan_, layout_, prepared_, scales_->entries, at, count);
  }

  /// Rounded, or as it is, to wait.
  QS_DEVICE void take(Pack<C>& pack, uint32_t at, int count) const {
    if (waits_) {
      widen(pack, at, count);
    } else {
      round(pack, at, count);
    }
  }

 private:
  QS_DEVICE int blocks() const {
    int count = 1;
    for (int a = 0; a < layout_->axes; ++a)
      count *= int(ceiling(layout_->lengths[a], layout_->extents[a]));
    return count;
  }

  QS_DEVICE uint32_t block_at(uint32_t element) const {
    return flat_ ? element / extent_ : block_of(*layout_, element);
  }

  QS_DEVICE PackWords<size> words_of(uint32_t at, int count) const {
    const uint64_t element = first_ + at;
    if (order_) return words_in_order(order_, random_, uint32_t(element), count);
    if (element % 4) return words_across(random_, element, count);
    return words_from<size, 0>(element, random_);
  }

  template <Way way>
  static QS_DEVICE void round_shortly(Pack<C>& pack, const PackWords<size>& words, const Short& s) {
    round_by_words<C>(pack, words, [&](Word raw, Word word, int) {
      return round_in_float32<C, way, is_stochastic(mode)>(raw, word, s);
    });
  }

  const Plan* plan_;
  const Layout* layout_;
  Scales* scales_;
  Prepared* prepared_;
  bool waits_ = false, flat_ = false;
  uint32_t extent_ = 0;
  Random random_{};
  const Layout* order_ = nullptr;
  uint64_t first_ = 0;
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

/// Rounds what waits in an array.
template <Mode mode>
QS_DEVICE void finish(const ChunkRounder<mode>& rounder, const Numbers<C>& from,
                      const Numbers<C>& to, int64_t elements) {
  if (!rounder.waits()) return;
  each_pack(elements, [&](uint32_t at, int count) {
    Pack<C> pack = from.load(at, count);
    rounder.round(pack, at, count);
    to.store(at, pack, count);
  });
}

/// Rounds a chunk of an array to another. waiting: where its elements wait for scales.
template <class Rounder>
QS_DEVICE void round_chunk(const Rounder& rounder, const Numbers<C>& from, const Numbers<C>& to,
                           const Numbers<C>& waiting, int64_t n) {
  rounder.begin(0);
  __syncthreads();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> pack = from.load(at, count);
    rounder.take(pack, at, count);
    (rounder.waits() ? waiting : to).store(at, pack, count);
  });
  __syncthreads();
  rounder.end();
  __syncthreads();
  finish(rounder, waiting, to, n);
}

QS_END
