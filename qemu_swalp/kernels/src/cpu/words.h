// Random words of runs of elements on a CPU.
#pragma once
#include "common/philox.h"
#include "cpu/vector.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

QS_BEGIN

/// Products of the low halves of 64-bit words.
inline Vector64 multiply_halves(Vector64 a, uint64_t b) {
#if defined(__AVX512F__)
  return Vector64(_mm512_mul_epu32(__m512i(a), _mm512_set1_epi64(int64_t(b))));
#elif defined(__AVX2__)
  return Vector64(_mm256_mul_epu32(__m256i(a), _mm256_set1_epi64x(int64_t(b))));
#else
  return (a & 0xFFFFFFFFu) * b;
#endif
}

/// Elements of two vectors in turn: of their first halves, of their second halves.
inline void interleave(Vector64 a, Vector64 b, Vector64& first, Vector64& second) {
#if defined(__AVX512F__)
  first = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  second = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
  first = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  second = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  first = __builtin_shufflevector(a, b, 0, 2);
  second = __builtin_shufflevector(a, b, 1, 3);
#endif
}

constexpr int vector_blocks = int(sizeof(Vector64) / sizeof(uint64_t));
constexpr int vector_words = 4 * vector_blocks;  // of a vector of blocks

/// Words of `count` groups of blocks. group: vectors of blocks worked on at a time, so that one's
/// multiplications hide the other's.
template <int group>
inline void fill_groups(uint32_t* out, uint32_t block, int count, const Random& random) {
  constexpr int group_blocks = group * vector_blocks, group_words = 4 * group_blocks;
  Vector64 index;
  for (int i = 0; i < vector_blocks; ++i) index[i] = uint64_t(i);
  for (; count > 0; --count, out += group_words, block += group_blocks) {
    Vector64 c0[group], c1[group], c2[group], c3[group];
    for (int g = 0; g < group; ++g) {
      c0[g] = (index + block + uint64_t(g * vector_blocks)) & 0xFFFFFFFFu;
      c1[g] = Vector64() + random.step;
      c2[g] = Vector64() + random.key[0];
      c3[g] = Vector64() + random.key[1];
    }
    for (int r = 0; r < rounds; ++r) {
      for (int g = 0; g < group; ++g) {
        // Only the low halves count; what stands above them is dropped by the next product, and at
        // the end.
        const Vector64 p0 = multiply_halves(c0[g], factor0), p1 = multiply_halves(c2[g], factor1);
        c0[g] = (p1 >> 32) ^ c1[g] ^ uint64_t(key0(random.key, r));
        c2[g] = (p0 >> 32) ^ c3[g] ^ uint64_t(key1(random.key, r));
        c1[g] = p1;
        c3[g] = p0;
      }
    }
    for (int g = 0; g < group; ++g) {
      Vector64 first, second;
      interleave((c0[g] & 0xFFFFFFFFu) | (c1[g] << 32), (c2[g] & 0xFFFFFFFFu) | (c3[g] << 32),
                 first, second);
      __builtin_memcpy(out + g * vector_words, &first, sizeof first);
      __builtin_memcpy(out + g * vector_words + vector_words / 2, &second, sizeof second);
    }
  }
}

constexpr int piece = 1024;  // elements whose words are made at a time

/// Random words of up to `piece` elements, in a buffer of the caller.
struct WordBuffer {
  uint32_t at[piece + 4 + vector_words];

  /// Those of `count` elements from the given one on (of the array; the offset is added here).
  __attribute__((noinline)) const uint32_t* fill(const Random& random, uint64_t element,
                                                 int count) {
    if (random.words) return random.words + element;
    const uint64_t first = element + random.offset;
    const int skipped = int(first % 4);
    const int vectors = (skipped + count + vector_words - 1) / vector_words, pairs = vectors / 2;
    const uint32_t block = uint32_t(first / 4);
    fill_groups<2>(at, block, pairs, random);
    if (vectors % 2)
      fill_groups<1>(at + pairs * 2 * vector_words, block + uint32_t(pairs * 2 * vector_blocks), 1,
                     random);
    return at + skipped;
  }
};

QS_END
