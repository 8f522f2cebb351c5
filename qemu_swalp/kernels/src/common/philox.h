// Philox4x32-10 (clauses RNG-1 and RNG-3); the C++ of `random_bits.py`.
#pragma once
#include "common/portable.h"

QS_BEGIN

constexpr int rounds = 10;
constexpr uint32_t factor0 = 0xD2511F53u, factor1 = 0xCD9E8D57u;

/// Which words: those of a stream at a step, of elements from `offset` on; or, where `words` is
/// given, these. On a GPU the step may stand in its memory, at `step_at`, so that a graph of
/// launches counts on.
struct Random {
  const uint32_t* words;
  const uint32_t* step_at;
  uint64_t offset;
  uint32_t step, key[2];
};

/// Key words of a round.
QS_INLINE uint32_t key0(const uint32_t* key, int round) {
  return key[0] + uint32_t(round) * 0x9E3779B9u;
}
QS_INLINE uint32_t key1(const uint32_t* key, int round) {
  return key[1] + uint32_t(round) * 0xBB67AE85u;
}

struct Words {
  uint32_t at[4];
};

QS_FUNCTION Words philox(const uint32_t* counter, const uint32_t* key) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  for (int r = 0; r < rounds; ++r) {
    const uint64_t p0 = uint64_t(factor0) * c0, p1 = uint64_t(factor1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ key0(key, r);
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ key1(key, r);
    c3 = uint32_t(p0);
  }
  return {{c0, c1, c2, c3}};
}

/// The four words of a block of elements.
QS_FUNCTION Words philox(uint32_t block, const Random& random) {
  const uint32_t counter[4] = {block, random.step, random.key[0], random.key[1]};
  return philox(counter, random.key);
}

QS_END
