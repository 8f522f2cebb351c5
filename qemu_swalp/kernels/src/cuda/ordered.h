// Arrays that fill their memory without a gap, in another order of axes than C's: neighbours in
// memory are none by the numbers of elements, which say what their random words are.
#pragma once
#include "common/calls.h"
#include "cuda/packs.h"

QS_BEGIN

/// The number in C order of an element by its place in memory. Place: what holds both.
template <class Place>
QS_DEVICE Place number_of_place(const Layout& order, Place place) {
  Place number = 0;
  for (int a = order.axes - 1; a > 0; --a) {
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
  const Place first = number_of_place(*order, place), apart = Place(order->source_strides[inner]);
  PackWords<size> words{};
  QS_UNROLL
  for (int i = 0; i < size; ++i) {
    if (i >= count) continue;
    words.at[i] = random_word_of(random, within ? first + Place(i) * apart
                                                : number_of_place(*order, Place(place + Place(i))));
  }
  return words;
}

/// Rounds elements of which `call.layout` has the axes as they lie in memory, and in
/// `source_strides` the steps of their numbers.
template <class C, class Round>
QS_DEVICE void round_by_number(const QuantizeCall& call, Round round) {
  constexpr int size = pack_size<C>;
  const Random random = now(call.random);
  const int64_t columns = call.counts.columns;
  const bool fits = columns <= int64_t(1) << 31;
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
