// Tables whose values are the multiples of a power of two in each binade, or are alike in all
// binades: there the place of a value follows from the bits of a number (`table_spacing.py`).
#pragma once
#include "cpu/floats.h"

QS_BEGIN

/// Words of an array at the lanes' indices.
inline Vector32 gather(const uint32_t* from, Vector32 at) {
#if defined(__AVX512F__)
  return Vector32(_mm512_i32gather_epi32(__m512i(at), from, 4));
#elif defined(__AVX2__)
  return Vector32(_mm256_i32gather_epi32(reinterpret_cast<const int*>(from), __m256i(at), 4));
#else
  Vector32 words;
  for (int i = 0; i < vector_bytes / 4; ++i) words[i] = from[at[i]];
  return words;
#endif
}
inline Vector64 gather(const uint64_t* from, Vector64 at) {
#if defined(__AVX512F__)
  return Vector64(_mm512_i64gather_epi64(__m512i(at), from, 8));
#elif defined(__AVX2__)
  return Vector64(_mm256_i64gather_epi64(reinterpret_cast<const long long*>(from), __m256i(at), 8));
#else
  Vector64 words;
  for (int i = 0; i < vector_bytes / 8; ++i) words[i] = from[at[i]];
  return words;
#endif
}

/// Where values lie around magnitudes. Bits are counted from -2^mantissa here, so that binade 0
/// begins at a multiple of every power of two.
template <class C>
class SpacedValues {
 public:
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;

  explicit SpacedValues(const TableSpacing& t)
      : step(Word(t.step)),
        least(Word(t.least)),
        greatest(Word(t.greatest)),
        first_(Word(t.first)),
        binades_(static_cast<const Word*>(t.binades)),
        in_registers_(V::count == 16 && t.binades && t.count <= 4 * 2 * V::count) {
    if (!in_registers_) return;
    for (int i = 0; i < t.count; ++i)
      packed_[i / 4 / V::count][i / 4 % V::count] |= binades_[i] << (8 * (i % 4) % C::width);
  }

  Word step, least, greatest;  // the least magnitude that is no zero; of values that are not zero

  /// Of magnitudes within the range of values that are not zero.
  struct Place {
    Vector bits;   // counted so
    Vector shift;  // values are multiples of 2^shift
    Vector flip;   // 1 where even multiples are odd codes
  };
  QS_INLINE Place place(Vector magnitude) const {
    const Vector none{};
    const Vector within = lesser<Vector>(greater<Vector>(magnitude, none + least), none + greatest);
    const Vector binade = (within >> C::mantissa) - first_;
    Vector entry;
    if (in_registers_) {
      entry = turned<Vector>(packed_[0], packed_[1], binade >> 2) >> ((binade & 3) << 3);
    } else {
      entry = gather(binades_, binade);
    }
    return {within + (Word(1) << C::mantissa), entry & 63, (entry >> 6) & 1};
  }

  /// Bits of magnitudes that are counted so.
  static QS_INLINE Vector magnitudes(Vector bits) { return bits - (Word(1) << C::mantissa); }

  /// Rounded to nearest, ties to even codes. cut, unsure: as in `TableLookup`.
  template <bool cut>
  QS_INLINE Vector nearest(Vector magnitude, Vector& unsure) const {
    const Vector none{}, one = none + 1;
    const Place at = place(magnitude);
    const Vector unit = one << at.shift, odd = ((at.bits >> at.shift) ^ at.flip) & 1;
    const Vector sum = at.bits + ((unit >> 1) - 1) + odd;
    if constexpr (cut)
      unsure |= Vector(((sum + 1) & (unit - 1)) == none) | Vector(magnitude + 1 == none + step);
    const Vector rounded = magnitudes(sum & (none - unit));
    return select<Vector>(signed_of(magnitude) < signed_of(none + step), none, rounded);
  }

 private:
  Word first_;
  const Word* binades_;
  bool in_registers_;
  Vector packed_[2]{};  // four binades to a word
};

/// The same where all binades have the same steps, few enough for a vector.
template <class C>
class PeriodicValues {
 public:
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;

  explicit PeriodicValues(const TableSpacing& t)
      : step(Word(t.step)), least(Word(t.least)), greatest(Word(t.greatest)) {
    if (V::count == period_words && t.period) __builtin_memcpy(columns_, t.period, sizeof columns_);
  }

  Word step, least, greatest;

  /// The value after the last step up to magnitudes, and for stochastic modes the next one.
  struct Neighbours {
    Vector lower, upper;
  };
  template <bool cut>
  QS_INLINE Neighbours around(Vector magnitude, Vector& unsure) const {
    const Vector none{};
    const Vector within = lesser<Vector>(greater<Vector>(magnitude, none + least), none + greatest);
    const Vector place = within & ((Word(1) << C::mantissa) - 1), binade = within - place;
    Vector position{};
    for (Word half = period_words / 2; half > 0; half /= 2) {
      const Vector next = turned<Vector>(columns_[0], position + (half - 1));
      position += select<Vector>(signed_of(next) <= signed_of(place), none + half, none);
    }
    if constexpr (cut) {  // a step may be the next binade's first
      const Vector next = turned<Vector>(columns_[0], position);
      unsure |= Vector(next == place + 1) | Vector(magnitude + 1 == none + step) |
                Vector(place == none + ((Word(1) << C::mantissa) - 1));
    }
    return {binade + turned<Vector>(columns_[1], position),
            binade + turned<Vector>(columns_[2], position)};
  }

 private:
  Vector columns_[3]{};
};

QS_END
