// Arrays that fill their memory without a gap, in another order of axes than C's: neighbours in
// memory are none by the numbers of elements, which say what their random words are.
#pragma once
#include "common/calls.h"
#include "cuda/packs.h"

QS_BEGIN

/// The number in C order of an element by its place in memory; of so many outer axes. Place: what
/// holds both.
template <class Place>
QS_DEVICE Place number_of_place(const Layout& order, int axes, Place place) {
  Place number = 0;
  for (int a = axes - 1; a > 0; --a) {
    const Place length = Place(order.lengths[a]);
    number += place % length * Place(order.source_strides[a]);
    place /= length;
  }
  return number + place * Place(order.source_strides[0]);
}

QS_DEVICE uint32_t random_word_of(const Random& random, uint64_t element) {
  if (random.words) return random.words[element];
  const uint64_t number = element + random.offset;
  const Words four = philox(uint32_t(number / 4), random);
  const uint32_t low = number % 2 ? four.at[1] : four.at[0],
                 high = number % 2 ? four.at[3] : four.at[2];
  return number % 4 < 2 ? low : high;
}

/// Random words of neighbours in memory, from a place on. Called, not inlined, since it is long: it
/// takes its arguments in registers.
template <int size, class Place>
__device__ __noinline__ PackWords<size> words_by_number(const Layout* order, Random random,
                                                        Place place, int count) {
  const int inner = order->axes - 1;
  const bool within = order->lengths[inner] % size == 0;  // an axis has whole packs
  const Place first = number_of_place(*order, order->axes, place),
              apart = Place(order->source_strides[inner]);
  PackWords<size> words{};
  QS_UNROLL
  for (int i = 0; i < size; ++i) {
    if (i >= count) continue;
    const Place own = within ? first + Place(i) * apart
                             : number_of_place(*order, order->axes, Place(place + Place(i)));
    words.at[i] = random_word_of(random, own);
  }
  return words;
}

constexpr int tile_rows = 4;  // whose numbers follow one another, as words of a block do

/// Whether the last two axes part into tiles of such rows and whole packs.
template <class C>
QS_DEVICE bool has_tiles(const Layout& order, const Random& random) {
  const int inner = order.axes - 1;
  return inner > 0 && order.lengths[inner] % pack_size<C> == 0 &&
         order.source_strides[inner - 1] == 1 && !random.words;
}

/// Random words of elements whose numbers follow one another; `number` counts the offset. Called as
/// `words_by_number`.
__device__ __noinline__ PackWords<tile_rows> words_of_rows(Random random, uint64_t number) {
  const Words low = philox(uint32_t(number / 4), random);
  PackWords<tile_rows> words{{low.at[0], low.at[1], low.at[2], low.at[3]}};
  const int skipped = int(number % 4);
  if (skipped == 0) return words;
  const Words high = philox(uint32_t(number / 4) + 1, random);
  const bool one = skipped & 1, two = skipped & 2;
  uint32_t by_one[6];
  QS_UNROLL
  for (int i = 0; i < 6; ++i) {
    const uint32_t own = i < 4 ? low.at[i & 3] : high.at[i & 3],
                   next = i < 3 ? low.at[(i + 1) & 3] : high.at[(i + 1) & 3];
    by_one[i] = one ? next : own;
  }
  QS_UNROLL
  for (int i = 0; i < tile_rows; ++i) words.at[i] = two ? by_one[i + 2] : by_one[i];
  return words;
}

/// As `round_by_number`, of arrays that have tiles and no more than 2^31 elements.
template <class C, class Round>
QS_DEVICE void round_tiles(const QuantizeCall& call, const Random& random, Round round) {
  constexpr uint32_t size = pack_size<C>;
  const Layout& order = call.layout;
  const int inner = order.axes - 1;
  const uint32_t length = uint32_t(order.lengths[inner]), rows = uint32_t(order.lengths[inner - 1]),
                 across = length / size, down = (rows + tile_rows - 1) / tile_rows,
                 outer = uint32_t(call.counts.columns) / (rows * length);
  const uint64_t apart = uint64_t(order.source_strides[inner]);
  const auto* source = static_cast<const typename C::Stored*>(call.source);
  auto* target = static_cast<typename C::Stored*>(call.target);
  for (uint32_t tile = blockIdx.x * threads + threadIdx.x; tile < outer * down * across;
       tile += gridDim.x * threads) {
    const uint32_t strip = tile / across, above = strip / down, column = tile % across * size,
                   row = strip % down * tile_rows, place = (above * rows + row) * length + column;
    Pack<C> packs[tile_rows];
    QS_UNROLL
    for (uint32_t t = 0; t < tile_rows; ++t)
      packs[t] = row + t < rows ? load<C>(source + place + t * length, size) : Pack<C>{};
    const uint64_t number = number_of_place(order, inner - 1, above) + row + column * apart;
    QS_UNROLL
    for (uint32_t i = 0; i < size; ++i) {
      const PackWords<tile_rows> words = words_of_rows(random, number + i * apart + random.offset);
      QS_UNROLL
      for (uint32_t t = 0; t < tile_rows; ++t) {
        packs[t].at[i] =
            typename C::Stored(round(typename C::Word(packs[t].at[i]),
                                     typename C::Word(words.at[t]) << (C::width - 32), int(i)));
      }
    }
    QS_UNROLL
    for (uint32_t t = 0; t < tile_rows; ++t) {
      if (row + t < rows) store<C>(target + place + t * length, packs[t], size);
    }
  }
}

/// Rounds elements of which `call.layout` has the axes as they lie in memory, and in
/// `source_strides` the steps of their numbers.
template <class C, class Round>
QS_DEVICE void round_by_number(const QuantizeCall& call, Round round) {
  constexpr int size = pack_size<C>;
  const Random random = now(call.random);
  const int64_t columns = call.counts.columns;
  const bool fits = columns <= int64_t(1) << 31;
  if (fits && has_tiles<C>(call.layout, random)) return round_tiles<C>(call, random, round);
  for (int64_t at = (int64_t(blockIdx.x) * threads + threadIdx.x) * size; at < columns;
       at += int64_t(gridDim.x) * threads * size) {
    const int count = int(least_of<int64_t>(size, columns - at));
    Pack<C> pack = load<C>(static_cast<const typename C::Stored*>(call.source) + at, count);
    const PackWords<size> words =
        fits ? words_by_number<size>(&call.layout, random, uint32_t(at), count)
             : words_by_number<size>(&call.layout, random, uint64_t(at), count);
    round_by_words<C>(pack, words, round);
    store<C>(static_cast<typename C::Stored*>(call.target) + at, pack, count);
  }
}

QS_END
