// The kernels on a GPU, compiled for a source dtype and a rounding mode: QS_SOURCE_DTYPE and
// QS_MODE.
//
// Elements: `qs_round`; `qs_order` where axes lie in another order and draw random words. Blocks
// that threads hold: `qs_groups` and `qs_rows`. Others of which a window holds some whole ones:
// `qs_blocks`. Larger ones in two passes: the extremes of all of them by `qs_reduce`, into memory
// that is zero, then `qs_blocks`, or `qs_whole` where there is one. Under two levels of scales the
// extremes of the array come first, as those of one block.
#include "cuda/held_blocks.h"
#include "cuda/ordered.h"
#include "cuda/windows.h"

QS_BEGIN

using C = QS_SOURCE_DTYPE;
using Mode_ = Known<Mode::QS_MODE>;
using Word = C::Word;
using Stored = C::Stored;

constexpr int size = pack_size<C>;
constexpr bool stochastic = is_stochastic(Mode::QS_MODE);

struct Shared {
  Extremes<C> extremes[most_segments];
  Entry<C> scales[most_segments];
};

QS_DEVICE const Stored* source_of(const QuantizeCall& call) {
  return static_cast<const Stored*>(call.source);
}
QS_DEVICE Stored* target_of(const QuantizeCall& call) { return static_cast<Stored*>(call.target); }

/// Elements that follow one another in memory, some packs of a thread at a time: their loads wait
/// for none.
template <class Round>
QS_DEVICE void round_run(const QuantizeCall& call, const Random& random, Round round) {
  const int64_t columns = call.counts.columns, apart = int64_t(threads) * size;
  int64_t at = (int64_t(blockIdx.x) * together * threads + threadIdx.x) * size;
  const int64_t step = int64_t(gridDim.x) * together * apart;
  if (is_aligned<C>(source_of(call)) && is_aligned<C>(target_of(call)) &&
      (!stochastic || in_blocks(random))) {
    for (; at + (together - 1) * apart + size <= columns; at += step) {
      Pack<C> packs[together];
      QS_UNROLL
      for (int i = 0; i < together; ++i) packs[i] = load_whole<C>(source_of(call) + at + i * apart);
      QS_UNROLL
      for (int i = 0; i < together; ++i) {
        PackWords<size> words{};
        if (stochastic)
          words = words_from<size, 0>(uint64_t(at + i * apart) + random.offset, random);
        round_by_words<C>(packs[i], words, round);
      }
      QS_UNROLL
      for (int i = 0; i < together; ++i) store_whole<C>(target_of(call) + at + i * apart, packs[i]);
    }
  }
  for (; at < columns; at += step) {
    for (int64_t c = at; c < columns && c < at + together * apart; c += apart) {
      const int count = int(least_of<int64_t>(size, columns - c));
      Pack<C> pack = load<C>(source_of(call) + c, count);
      round_pack<C, stochastic>(pack, random, c, count, round);
      store<C>(target_of(call) + c, pack, count);
    }
  }
}

template <class Round>
QS_DEVICE void round_windows(const QuantizeCall& call, Round round) {
  const Random random = stochastic ? now(call.random) : Random{};
  if (call.layout.axes == 1) return round_run(call, random, round);
  const BlockRows blocks(call.layout, call.counts);
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    each_pack<C>(call, columns, [&](int64_t c, int count) {
      each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
        Pack<C> pack = load<C>(source_of(call) + row.source + c, count);
        round_pack<C, stochastic>(pack, random, row.element + c, count, round);
        store<C>(target_of(call) + row.target + c, pack, count);
      });
    });
  });
}

template <Way way>
QS_DEVICE void round_elements_shortly(const QuantizeCall& call, const Short& s) {
  round_windows(call, [&](Word raw, Word word, int) {
    return round_in_float32<C, way, stochastic>(raw, word, s);
  });
}

template <Shape shape>
QS_DEVICE void round_elements(const QuantizeCall& call, const Constants<C>& constants) {
  round_windows(call, [&](Word raw, Word word, int) {
    return round_element<C, shape>(Mode_(), raw, word, constants, call.plan.element, 0);
  });
}

/// Segments of the columns of a window, counted from the one that holds its first column. A window
/// has less than 2^17 columns, which `windows_of` sees to: 32 bits hold what is divided.
class Segments {
 public:
  QS_DEVICE explicit Segments(int64_t length)
      : length_(uint64_t(length)),
        long_(length >= int64_t(1) << 31),
        shift_(!long_ && (length & (length - 1)) == 0 ? lead(uint32_t(length)) : -1) {}

  QS_DEVICE uint64_t at(uint64_t column) const {
    if (long_) return column >= length_;  // the window lies in two of them at most
    return shift_ >= 0 ? uint32_t(column) >> shift_ : uint32_t(column) / uint32_t(length_);
  }

 private:
  uint64_t length_;
  bool long_;
  int shift_;
};

/// Extremes of the segments of a window, which are zero at first, by all threads.
QS_DEVICE void find(const QuantizeCall& call, const BlockRows& blocks, int64_t b, Range rows,
                    Range columns, Extremes<C>* extremes) {
  const bool signs = call.plan.scaling.rule == Rule::minmax;
  const int64_t k = blocks.segment, first = columns.first / k, offset = columns.first - first * k;
  const bool one = offset + columns.size() <= k;
  const Segments segments(k);
  Extremes<C> all{};
  each_pack<C>(call, columns, [&](int64_t c, int count) {
    PackExtremes<C> pack_extremes{};
    each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
      pack_extremes.widen(load<C>(source_of(call) + row.source + c, count), signs);
    });
    if (one) {
      all = wider(all, pack_extremes.all());
      return;
    }
    const uint64_t at = uint64_t(offset + c - columns.first), segment = segments.at(at);
    if (at + uint64_t(count) <= (segment + 1) * uint64_t(k)) {
      raise(&extremes[segment], pack_extremes.all());
      return;
    }
    for (int i = 0; i < size; ++i) {
      if (i < count) raise(&extremes[segments.at(at + uint64_t(i))], pack_extremes.at(i));
    }
  });
  if (one) raise_by_warp(extremes, all);
}

/// Extremes of one block whose elements follow one another in memory, by all threads.
QS_DEVICE void find_run(const QuantizeCall& call, Extremes<C>* to) {
  const bool signs = call.plan.scaling.rule == Rule::minmax;
  const int64_t columns = call.counts.columns, apart = int64_t(threads) * size;
  const int64_t step = int64_t(gridDim.x) * together * apart;
  int64_t at = (int64_t(blockIdx.x) * together * threads + threadIdx.x) * size;
  Extremes<C> found{0, 0, 0};
  if (is_aligned<C>(source_of(call))) {
    for (; at + (together - 1) * apart + size <= columns; at += step) {
      Pack<C> packs[together];
      QS_UNROLL
      for (int i = 0; i < together; ++i) packs[i] = load_whole<C>(source_of(call) + at + i * apart);
      QS_UNROLL
      for (int i = 0; i < together; ++i) found = wider(found, extremes_of_pack<C>(packs[i], signs));
    }
  }
  for (; at < columns; at += step) {
    for (int64_t c = at; c < columns && c < at + together * apart; c += apart) {
      const int count = int(least_of<int64_t>(size, columns - c));
      found = wider(found, extremes_of_pack<C>(load<C>(source_of(call) + c, count), signs));
    }
  }
  raise_by_warp(to, found);
}

QS_DEVICE int segments_of(const BlockRows& blocks, Range columns) {
  return int(ceiling(columns.last, blocks.segment) - columns.first / blocks.segment);
}

/// Rounds a window under the scales of its segments.
QS_DEVICE void apply(const QuantizeCall& call, const BlockRows& blocks, const Random& random,
                     const Common<C>& common, int64_t b, Range rows, Range columns,
                     const Entry<C>* scales) {
  const int64_t k = blocks.segment, offset = columns.first % k;
  const bool one = offset + columns.size() <= k;
  const Segments segments(k);
  each_pack<C>(call, columns, [&](int64_t c, int count) {
    const uint64_t at = one ? 0 : uint64_t(offset + c - columns.first),
                   segment = one ? 0 : segments.at(at);
    const bool within = one || at + uint64_t(count) <= (segment + 1) * uint64_t(k);
    each_row(call, blocks, b, rows, [&](BlockRows::Row row) {
      Pack<C> pack = load<C>(source_of(call) + row.source + c, count);
      const int64_t element = row.element + c;
      PackWords<size> words{};
      if (stochastic) words = pack_words<size>(random, uint64_t(element), count);
      if (within) {
        round_pack_under<C, Mode_>(pack, words, scales[segment], common, call.plan);
      } else {
        round_by_words<C>(pack, words, [&](Word raw, Word word, int i) {
          const uint64_t own = i < count ? segments.at(at + uint64_t(i)) : segment;
          return round_under<C>(Mode_(), raw, word, scales[own], common, call.plan);
        });
      }
      store<C>(target_of(call) + row.target + c, pack, count);
    });
  });
}

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads)
    qs_round(const __grid_constant__ QuantizeCall call) {
  if (call.plan.family == Family::table) {
    return round_windows(call, [&](Word raw, Word word, int) {
      return round_by_table<C>(Mode_(), raw, word, call.plan.table);
    });
  }
  if constexpr (is_short(Mode_()) && is_in_float32<C>) {
    const Short s = short_of<C>(call.plan.element, stochastic, true);
    if (s.way == Way::saturating) return round_elements_shortly<Way::saturating>(call, s);
    if (s.way == Way::regular) return round_elements_shortly<Way::regular>(call, s);
    if (s.way == Way::bits) return round_elements_shortly<Way::bits>(call, s);
  }
  const Constants<C> constants = constants_of<C>(call.plan.element, 0);
  switch (shape_of<C>(call.plan.element, 0, true)) {
    case Shape::saturating:
      return round_elements<Shape::saturating>(call, constants);
    case Shape::regular:
      return round_elements<Shape::regular>(call, constants);
    default: {
      const Segment<C> one = segment_of<C>(call.plan.element, 0, true, false);
      return round_windows(call, [&](Word raw, Word word, int) {
        return round_any<C>(Mode_(), raw, word, one, call.plan.element);
      });
    }
  }
}

template <Way way>
QS_DEVICE void round_shortly_by_number(const QuantizeCall& call, const Short& s) {
  round_by_number<C>(call, [&](Word raw, Word word, int) {
    return round_in_float32<C, way, stochastic>(raw, word, s);
  });
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_order(const __grid_constant__ QuantizeCall call) {
  if constexpr (stochastic) {
    if constexpr (is_short(Mode_()) && is_in_float32<C>) {
      if (call.plan.family != Family::table) {
        const Short s = short_of<C>(call.plan.element, stochastic, true);
        if (s.way == Way::saturating) return round_shortly_by_number<Way::saturating>(call, s);
        if (s.way == Way::regular) return round_shortly_by_number<Way::regular>(call, s);
        if (s.way == Way::bits) return round_shortly_by_number<Way::bits>(call, s);
      }
    }
    const Segment<C> one = segment_of<C>(call.plan.element, 0, true, false);
    round_by_number<C>(call, [&](Word raw, Word word, int) {
      if (call.plan.family == Family::table)
        return round_by_table<C>(Mode_(), raw, word, call.plan.table);
      return round_any<C>(Mode_(), raw, word, one, call.plan.element);
    });
  }
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_reduce(const __grid_constant__ QuantizeCall call) {
  __shared__ Extremes<C> extremes[most_segments];
  if (call.layout.axes == 1 && call.counts.segments == 1)
    return find_run(call, static_cast<Extremes<C>*>(call.extremes));
  const BlockRows blocks(call.layout, call.counts);
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    const int count = segments_of(blocks, columns);
    for (int s = threadIdx.x; s < count; s += threads) extremes[s] = {0, 0, 0};
    __syncthreads();
    find(call, blocks, b, rows, columns, extremes);
    __syncthreads();
    Extremes<C>* to = static_cast<Extremes<C>*>(call.extremes) + b * blocks.segments +
                      columns.first / blocks.segment;
    for (int s = threadIdx.x; s < count; s += threads) raise(&to[s], extremes[s]);
    __syncthreads();
  });
}

// At least three thread blocks on a processor: what that spills stands outside of the loops.
extern "C" __global__ void __launch_bounds__(threads, 3)
    qs_blocks(const __grid_constant__ QuantizeCall call) {
  __shared__ Shared shared;
  const BlockRows blocks(call.layout, call.counts);
  const Random random = stochastic ? now(call.random) : Random{};
  const GlobalScale global = global_of<C>(call);
  const Common<C> common = common_of<C>(call.plan);
  each_window(call, blocks, [&](int64_t b, Range rows, Range columns) {
    const int count = segments_of(blocks, columns);
    const Extremes<C>* extremes = shared.extremes;
    if (call.extremes) {
      extremes = static_cast<const Extremes<C>*>(call.extremes) + b * blocks.segments +
                 columns.first / blocks.segment;
    } else {
      for (int s = threadIdx.x; s < count; s += threads) shared.extremes[s] = {0, 0, 0};
      __syncthreads();
      find(call, blocks, b, rows, columns, shared.extremes);
    }
    __syncthreads();
    settle(call.plan, global, extremes, count, shared.scales);
    __syncthreads();
    apply(call, blocks, random, common, b, rows, columns, shared.scales);
  });
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_groups(const __grid_constant__ QuantizeCall call) {
  __shared__ Common<C> common;
  round_groups(call, HeldRounder<C, Mode_>(call, &common));
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_rows(const __grid_constant__ QuantizeCall call) {
  __shared__ Common<C> common;
  __shared__ Extremes<C> partial[2][threads / 32];
  round_rows(call, HeldRounder<C, Mode_>(call, &common), partial);
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_whole(const __grid_constant__ QuantizeCall call) {
  __shared__ Common<C> common;
  const HeldRounder<C, Mode_> rounder(call, &common);
  const Random random = stochastic ? now(call.random) : Random{};
  const Scale<C> scale = rounder.scale(*static_cast<const Extremes<C>*>(call.extremes));
  if constexpr (is_short(Mode_()) && is_in_float32<C>) {
    if (rounder.is_brief(scale)) {
      const Short s = rounder.brief(scale);
      return round_run(call, random, [&](Word raw, Word word, int) {
        return round_in_float32<C, Way::saturating, stochastic>(raw, word, s);
      });
    }
  }
  __shared__ Entry<C> entry;
  if (threadIdx.x == 0) {
    if (is_power(call.plan.scaling.rule)) {
      entry.power = segment_of<C>(call.plan.element, scale.power, scale.special, scale.nan);
    } else {
      entry.other = scale;
    }
  }
  __syncthreads();
  round_run(call, random, [&](Word raw, Word word, int) {
    return round_under<C>(Mode_(), raw, word, entry, common, call.plan);
  });
}
