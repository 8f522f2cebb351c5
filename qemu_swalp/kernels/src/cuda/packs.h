// Packs on a GPU: neighbours in a row that a thread reads and writes by one access, and their
// random words.
#pragma once
#include "common/dtype.h"
#include "common/philox.h"

#define QS_DEVICE __device__ __forceinline__

// Before a loop of a known number of turns: else a compiler that finds its body long keeps the
// arrays that it walks through in memory.
#if defined(__CUDACC__)
#define QS_UNROLL _Pragma("unroll")
#else
#define QS_UNROLL
#endif

QS_BEGIN

constexpr int threads = QS_THREADS;  // of a thread block

/// Elements of a pack.
template <class C>
constexpr int pack_size = C::storage == 16 ? 8 : 4;

template <class C>
struct alignas(pack_size<C> * sizeof(typename C::Stored)) Pack {
  typename C::Stored at[pack_size<C>];
};

/// Whether packs are accessed there as a whole.
template <class C>
QS_DEVICE bool is_aligned(const typename C::Stored* at) {
  return uint64_t(at) % sizeof(Pack<C>) == 0;
}

template <class C>
QS_DEVICE Pack<C> load_whole(const typename C::Stored* from) {
  return *reinterpret_cast<const Pack<C>*>(from);
}

template <class C>
QS_DEVICE Pack<C> load(const typename C::Stored* from, int count) {
  if (count == pack_size<C> && is_aligned<C>(from)) return load_whole<C>(from);
  Pack<C> pack{};
  for (int i = 0; i < pack_size<C>; ++i) {
    if (i < count) pack.at[i] = from[i];
  }
  return pack;
}

/// By one instruction, whatever the compiler makes of the parts.
QS_DEVICE void store_16_bytes(uint4* to, const uint4& value) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
               : "memory");
#else
  *to = value;
#endif
}

template <class C>
QS_DEVICE void store_whole(typename C::Stored* to, const Pack<C>& pack) {
  uint4 parts[sizeof(Pack<C>) / sizeof(uint4)];
  memcpy(parts, &pack, sizeof pack);
  QS_UNROLL
  for (unsigned i = 0; i < sizeof pack / sizeof(uint4); ++i)
    store_16_bytes(reinterpret_cast<uint4*>(to) + i, parts[i]);
}

template <class C>
QS_DEVICE void store(typename C::Stored* to, const Pack<C>& pack, int count) {
  if (count == pack_size<C> && is_aligned<C>(to)) return store_whole<C>(to, pack);
  for (int i = 0; i < pack_size<C>; ++i) {
    if (i < count) to[i] = pack.at[i];
  }
}

/// Random words of a pack.
template <int size>
struct PackWords {
  uint32_t at[size];
};

/// Those of elements from `first` on, of which `skipped` words of the first block belong to others.
template <int size, int skipped>
QS_DEVICE PackWords<size> words_from(uint64_t first, const Random& random) {
  PackWords<size> of_pack;
  QS_UNROLL
  for (int block = 0; block * 4 < size + skipped; ++block) {
    const Words words = philox(uint32_t(first / 4) + uint32_t(block), random);
    for (int j = 0; j < 4; ++j) {
      const int i = block * 4 + j - skipped;
      if (i >= 0 && i < size) of_pack.at[i] = words.at[j];
    }
  }
  return of_pack;
}

template <int size>
QS_DEVICE PackWords<size> pack_words(const Random& random, uint64_t element, int count) {
  if (random.words) {
    PackWords<size> words{};
    for (int i = 0; i < size; ++i) {
      if (i < count) words.at[i] = random.words[element + i];
    }
    return words;
  }
  const uint64_t first = element + random.offset;
  switch (first % 4) {
    case 0:
      return words_from<size, 0>(first, random);
    case 1:
      return words_from<size, 1>(first, random);
    case 2:
      return words_from<size, 2>(first, random);
    default:
      return words_from<size, 3>(first, random);
  }
}

/// Whether packs whose first element is a multiple of four have whole blocks of random words.
QS_DEVICE bool in_blocks(const Random& random) { return !random.words && random.offset % 4 == 0; }

/// The random words of now, whatever the host knew of the step.
QS_DEVICE Random now(Random random) {
  if (random.step_at) random.step = *random.step_at;
  return random;
}

/// round(raw, word, index in the pack) for the elements of a pack, in place.
template <class C, class Round>
QS_DEVICE void round_by_words(Pack<C>& pack, const PackWords<pack_size<C>>& words, Round round) {
  using Word = typename C::Word;
  QS_UNROLL
  for (int i = 0; i < pack_size<C>; ++i) {
    pack.at[i] =
        typename C::Stored(round(Word(pack.at[i]), Word(words.at[i]) << (C::width - 32), i));
  }
}

/// The same; the first element has this number in its array.
template <class C, bool stochastic, class Round>
QS_DEVICE void round_pack(Pack<C>& pack, const Random& random, int64_t element, int count,
                          Round round) {
  PackWords<pack_size<C>> words{};
  if (stochastic) words = pack_words<pack_size<C>>(random, uint64_t(element), count);
  round_by_words<C>(pack, words, round);
}

QS_END
