// Elements of 16 bits rounded to a table whose values are the multiples of a power of two in each
// binade, in lanes of 16 bits: twice as many to a vector as `TableLookup` takes.
#pragma once
#include "cpu/table_lookup.h"

QS_BEGIN

constexpr int short_lanes = 32;

#if defined(__AVX512BW__)

typedef uint16_t Vector16 __attribute__((vector_size(64)));
typedef int16_t SignedVector16 __attribute__((vector_size(64)));

template <>
struct Kind<Vector16> {
  using Word = uint16_t;
  using Signed = SignedVector16;
  using Mask = SignedVector16;
};

/// Rounds to nearest even, or stochastically by mode A.
template <class C, bool stochastic>
class ShortLanes {
 public:
  explicit ShortLanes(const Table& t)
      : step_(uint16_t(t.spacing.step)),
        least_(uint16_t(t.spacing.least)),
        greatest_(uint16_t(t.spacing.greatest)),
        first_(uint16_t(t.spacing.first)),
        mask_(uint16_t(top_bits<uint32_t>(t.random_bits) >> 16)),
        negative_zero_(t.has_negative_zero ? C::sign : 0),
        taken_(t.spacing.count <= 2 * short_lanes) {
    const auto* binades = static_cast<const uint32_t*>(t.spacing.binades);
    for (int i = 0; taken_ && i < t.spacing.count; ++i)
      binades_[i / short_lanes][i % short_lanes] = uint16_t(binades[i]);
    for (int i = 0; i < short_lanes; ++i) odd_[i] = uint16_t(2 * i + 1);
  }

  bool taken() const { return taken_; }

  /// Rounds `short_lanes` elements; false, and nothing done, where one is beyond the range or NaN,
  /// or lies in an interval of several binades or beside zero, and is rounded stochastically.
  ///
  /// In a binade ν has as many bits as the mantissa at most, so the leading 16 bits of a random
  /// word tell whether it and ν carry.
  QS_INLINE bool round(const uint16_t* from, uint16_t* to, const uint32_t* words) const {
    const Vector16 none{}, one = none + 1, origin = none + (uint16_t(1) << C::mantissa);
    Vector16 raw;
    __builtin_memcpy(&raw, from, sizeof raw);
    const Vector16 magnitude = raw & uint16_t(C::sign - 1);
    auto special = signed_of(magnitude) > signed_of(none + greatest_);
    const Vector16 within = greater<Vector16>(magnitude, none + least_);
    const Vector16 binade = (within >> C::mantissa) - first_;
    const Vector16 entry = turned<Vector16>(binades_[0], binades_[1], binade);
    const Vector16 shift = entry & 15, unit = one << shift, bits = within + origin;
    Vector16 size;
    if constexpr (stochastic) {
      const auto zero = magnitude == none;
      special |= (~zero & (signed_of(magnitude) < signed_of(none + least_))) |
                 (signed_of(shift) > signed_of(none + uint16_t(C::mantissa)));
      Vector16 low, high;
      __builtin_memcpy(&low, words, sizeof low);
      __builtin_memcpy(&high, words + short_lanes / 2, sizeof high);
      const Vector16 word = turned<Vector16>(low, high, odd_) & mask_;
      const Vector16 lower = bits & (none - unit);
      const Vector16 nu = ((bits - lower) << (none + 16 - shift)) & mask_;
      const auto up = Vector16(nu + word) < nu;
      size = select<Vector16>(zero, none, lower + select<Vector16>(up, unit, none) - origin);
    } else {
      const Vector16 odd = ((bits >> shift) ^ (entry >> 6)) & 1;
      const Vector16 sum = bits + ((unit >> 1) - 1) + odd;
      size = select<Vector16>(signed_of(magnitude) < signed_of(none + step_), none,
                              (sum & (none - unit)) - origin);
    }
    if (any<Vector16>(special)) return false;
    const Vector16 kept = select<Vector16>(size == none, none + negative_zero_, none + C::sign);
    const Vector16 out = size | (raw & kept);
    __builtin_memcpy(to, &out, sizeof out);
    return true;
  }

 private:
  uint16_t step_, least_, greatest_, first_, mask_, negative_zero_;
  bool taken_;
  Vector16 binades_[2]{}, odd_;
};

#else

template <class C, bool stochastic>
class ShortLanes {
 public:
  explicit ShortLanes(const Table&) {}
  static constexpr bool taken() { return false; }
  static bool round(const uint16_t*, uint16_t*, const uint32_t*) { return false; }
};

#endif

QS_END
