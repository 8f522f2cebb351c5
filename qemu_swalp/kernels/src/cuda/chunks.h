// Chunks of many tensors on a GPU, for programs that are compiled for a source dtype,
// QS_SOURCE_DTYPE.
//
// A thread block takes a chunk of a tensor at a time, whole blocks of every format, and each of its
// threads takes packs. What is yet to be rounded, where blocks share a scale, waits in the array
// that the result goes to.
#pragma once
#include "common/layouts.h"
#include "cuda/segments.h"

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

/// The rounding of a chunk.
template <Mode mode>
struct ChunkRounder {
  const Plan* plan;
  const Layout* layout;
  Random random;
  Scales* scales;
  Segment<C>* single;  // of a format of elements by themselves: the scale 1

  QS_DEVICE ChunkRounder(const ChunkedRounding& rounding, bool is_last, int64_t first,
                         Scales* scales, Segment<C>* single)
      : plan(rounding.plan),
        layout(is_last ? rounding.last : rounding.chunk),
        random{},
        scales(scales),
        single(single) {
    if (!plan || !is_stochastic(mode)) return;
    random = now(rounding.random);
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
    if (waits()) settle(*plan, GlobalScale{}, scales->extremes, blocks(), scales->entries);
  }

  /// Extremes of a pack, by all threads of a warp; count 0 where a thread has none.
  QS_DEVICE void widen(const Pack<C>& pack, uint32_t at, int count) const {
    PackExtremes<C> extremes{};
    if (count) extremes.widen(pack, plan->scaling.rule == Rule::minmax);
    const uint32_t first = count ? block_of(*layout, at) : 0;
    bool whole = count == 0 || layout->axes == 1;
    if (whole && count) whole = block_of(*layout, at + uint32_t(count) - 1) == first;
    const uint32_t shared = __shfl_sync(0xFFFFFFFFu, first, 0);
    if (__all_sync(0xFFFFFFFFu, count == 0 || (whole && first == shared))) {
      raise_by_warp(&scales->extremes[shared], extremes.all());
    } else if (whole) {
      raise(&scales->extremes[first], extremes.all());
    } else {
      for (int i = 0; i < size; ++i) {
        if (i < count)
          raise(&scales->extremes[block_of(*layout, at + uint32_t(i))], extremes.at(i));
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
    round_pack<C, is_stochastic(mode)>(pack, random, at, count, [&](Word raw, Word word, int i) {
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
QS_DEVICE void finish(const ChunkRounder<mode>& rounder, void* array, int64_t first,
                      int64_t elements) {
  if (!rounder.waits()) return;
  const Common<C> common = rounder.common();
  each_pack(elements, [&](uint32_t at, int count) {
    Pack<C> pack = load_from(array, first + at, count);
    rounder.round(pack, at, count, common);
    store_to(array, first + at, pack, count);
  });
}

/// Rounds a chunk of an array to another.
template <class Rounder>
QS_DEVICE void round_chunk(const Rounder& rounder, const void* from, void* to, int64_t first,
                           int64_t n) {
  rounder.begin();
  __syncthreads();
  each_pack(n, [&](uint32_t at, int count) {
    Pack<C> pack = load_from(from, first + at, count);
    rounder.take(pack, at, count);
    store_to(to, first + at, pack, count);
  });
  __syncthreads();
  rounder.end();
  __syncthreads();
  finish(rounder, to, first, n);
}

QS_END
