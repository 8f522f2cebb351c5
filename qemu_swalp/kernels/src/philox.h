// Philox4x32-10 (clauses RNG-1 and RNG-3); the C++ of `randombits.py`.
#pragma once
#include "portable.h"

QS_BEGIN

constexpr int rounds = 10;
constexpr uint32_t factor0 = 0xD2511F53u, factor1 = 0xCD9E8D57u;

/// Which words: those of a stream at a step, of elements from `offset` on; or, where `words` is given, these. On a GPU the
/// step may stand in its memory, at `step_at`, so that a graph of launches counts on.
struct Random {
  const uint32_t* words;
  const uint32_t* step_at;
  uint64_t offset;
  uint32_t step, key[2];
};

/// Key words of a round.
QS_INLINE uint32_t key0(const Random& random, int round) { return random.key[0] + uint32_t(round) * 0x9E3779B9u; }
QS_INLINE uint32_t key1(const Random& random, int round) { return random.key[1] + uint32_t(round) * 0xBB67AE85u; }

struct Words {
  uint32_t at[4];
};

/// The four words of a block.
QS_FUNCTION Words philox(uint32_t block, const Random& random) {
  uint32_t c0 = block, c1 = random.step, c2 = random.key[0], c3 = random.key[1];
  for (int r = 0; r < rounds; ++r) {
    const uint64_t p0 = uint64_t(factor0) * c0, p1 = uint64_t(factor1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ key0(random, r);
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ key1(random, r);
    c3 = uint32_t(p0);
  }
  return {{c0, c1, c2, c3}};
}

QS_END
