// The values of a table that numbers are rounded to, in vectors: by comparing with all of them, by
// an index of its steps (`table_index.py`), or by their spacing.
#pragma once
#include "cpu/table_spacing.h"

QS_BEGIN

/// Whether numbers lie in the upper part of their intervals, as the random words have it: lanes of
/// ones. Mode A goes up where ν ≥ 1 - w/2^N, ν = (x - start)/width, so by the sign of
/// rest = x - start - (1 - w/2^N)·width. In floats with a unit roundoff of u, x - start, width and
/// (1 - w/2^N) are off by at most u·width, u·width and 2u, and rest by less than 8u·width after
/// all: nearer to 0 than that, lanes are `unsure`. `off`: by how much x may be more than
/// `magnitude`.
template <class C>
QS_INLINE typename Vectors<C>::V goes_up(typename Vectors<C>::V magnitude,
                                         FloatsOf<Computing<C>> start, FloatsOf<Computing<C>> width,
                                         typename Vectors<C>::V word, FloatsOf<Computing<C>> off,
                                         typename Vectors<C>::V& unsure) {
  using B = Computing<C>;
  using Vector = VectorIn<B>;
  using Reals = FloatsOf<B>;
  using Signed = typename Kind<Vector>::Signed;
  const Reals none{}, unit = none + (B::width == 32 ? 0x1p-21 : 0x1p-50);
  // Halves of words are signed numbers, which vectors convert.
  const Vector half = word >> (C::width - 31), last = (word >> (C::width - 32)) & 1;
  const Reals share = __builtin_convertvector(Signed(half), Reals) * Reals(none + 0x1p-31) +
                      __builtin_convertvector(Signed(last), Reals) * Reals(none + 0x1p-32);
  const Reals rest = residual(Reals(magnitude) - start, none + 1 - share, width);
  const Reals near = width * unit + off;
  const auto sure = (rest > near) | (-rest > near) | (width < none);
  unsure |= ~Vector(sure);
  return Vector((rest > none) & (width > none));
}

constexpr int short_table = 16;  // values up to which comparing with each beats an index

/// Finds bits of values by comparing with thresholds, for deterministic modes.
template <class C>
struct ShortTable {
  using Word = typename C::Word;
  using Vector = typename Vectors<C>::V;
  static constexpr Word none_above = ~Word(0) >> 1;
  Word thresholds[short_table], values[short_table];
  int last;

  explicit ShortTable(const Table& t)
      : last(t.thresholds && t.count <= short_table ? t.count - 1 : -1) {
    for (int i = 0; i < short_table; ++i) {
      values[i] = i <= last ? Word(uint64_t(t.values[i])) & (C::sign | (C::sign - 1)) : 0;
      thresholds[i] = i < last ? Word(uint64_t(t.thresholds[i])) : none_above;
    }
  }

  /// near: lanes of ones where `next`, the key of a negative number, or one more than that of
  /// another, is a threshold.
  template <bool cut>
  QS_INLINE Vector at(Vector key, Vector next, mask_of<Vector> minus, Vector& near) const {
    const Vector none{};
    if constexpr (Vectors<C>::count == short_table) {  // a search within a vector
      Vector steps, all;
      __builtin_memcpy(&steps, thresholds, sizeof steps);
      __builtin_memcpy(&all, values, sizeof all);
      Vector position{};
      for (Word half = short_table / 2; half > 0; half /= 2) {
        const Vector step = turned<Vector>(steps, position + (half - 1));
        position += select<Vector>(signed_of(step) <= signed_of(key), none + half, none);
      }
      if constexpr (cut) {
        const Vector place = position + Vector(minus);
        near |= Vector(turned<Vector>(steps, place & (short_table - 1)) == next);
      }
      return turned<Vector>(all, position);
    }
    Vector bits = none + values[0];
    for (int i = 0; i < last; ++i) {
      bits = select<Vector>(signed_of(key) >= signed_of(none + thresholds[i]), none + values[i + 1],
                            bits);
      if constexpr (cut) near |= Vector(next == none + thresholds[i]);
    }
    return bits;
  }
};

/// The index of a short table for stochastic_a: a search within two vectors.
template <class C>
struct ShortSteps {
  using Word = typename C::Word;
  using Vector = typename Vectors<C>::V;
  static constexpr int half = 16, fields = 4;
  Word columns[fields][2 * half];  // of the positive sign, then of the negative one

  static bool fits(const Table& t) {
    return Vectors<C>::count == half && t.positive.bits &&
           greatest_of(t.positive.key_count, t.negative.key_count) < half;
  }

  explicit ShortSteps(const Table& t) {
    if (!fits(t)) return;
    const Word* from = static_cast<const Word*>(t.index.entries);
    for (int sign = 0; sign < 2; ++sign) {
      const int count = (sign ? t.negative : t.positive).key_count;
      for (int i = 0; i < half; ++i) {
        for (int field = 0; field < fields; ++field)
          columns[field][sign * half + i] = from[least_of(i, count) * fields + field];
      }
      from += (count + (1 << t.index.levels)) * fields;
    }
  }

  QS_INLINE Vector at(int field, Vector position) const {
    Vector low, high;
    __builtin_memcpy(&low, columns[field], sizeof low);
    __builtin_memcpy(&high, columns[field] + half, sizeof high);
    return turned<Vector>(low, high, position);
  }
};

/// How a run of elements finds its values.
enum class Lookup {
  compare,
  index,
  spacing,
  period,
  index_stochastic,
  short_stochastic,
  spacing_stochastic,
  period_stochastic
};

constexpr bool is_stochastic(Lookup lookup) { return lookup >= Lookup::index_stochastic; }

constexpr bool is_spacing(Lookup lookup) {
  return lookup == Lookup::spacing || lookup == Lookup::spacing_stochastic;
}

/// Finds the values of numbers in C, by a deterministic mode or stochastic_a. cut: the numbers are
/// more by less than one unit in the last place, and steps were rounded up to C: one that lies a
/// unit above a number leaves it `unsure`.
template <class C, Lookup lookup, bool cut>
class TableLookup {
 public:
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;

  TableLookup(const Table& t, const ShortTable<C>& compared, const ShortSteps<C>& steps)
      : index_(t.index),
        first_(static_cast<const Word*>(t.index.first)),
        entries_(static_cast<const Word*>(t.index.entries)),
        mask_(top_bits<Word>(t.random_bits)),
        negative_zero_(t.has_negative_zero ? C::sign : 0),
        compared_(compared),
        short_(steps),
        spaced_(t.spacing),
        periodic_(t.spacing) {}

  /// Bits of the values; minus: mask of the sign bit; negative: of those that are not zero.
  QS_INLINE Vector find(Vector magnitude, mask_of<Vector> minus, mask_of<Vector> negative,
                        Vector word, Vector& unsure) const {
    const Vector none{}, above = magnitude + 1;
    Vector bits;
    if constexpr (lookup == Lookup::compare) {
      const Vector key = select<Vector>(minus, none - magnitude, magnitude);
      Vector near{};
      bits = compared_.template at<cut>(key, select<Vector>(minus, key, above), minus, near);
      unsure |= near;
    } else if constexpr (lookup == Lookup::spacing) {
      bits = signed_value(spaced_.template nearest<cut>(magnitude, unsure), minus);
    } else if constexpr (lookup == Lookup::spacing_stochastic) {
      bits = signed_value(spaced(magnitude, word & mask_, unsure), minus);
    } else if constexpr (lookup == Lookup::period) {
      const Vector size = periodic_.template around<cut>(magnitude, unsure).lower;
      const auto zero = signed_of(magnitude) < signed_of(none + periodic_.step);
      bits = signed_value(select<Vector>(zero, none, size), minus);
    } else if constexpr (lookup == Lookup::period_stochastic) {
      bits = signed_value(periodic(magnitude, word & mask_, unsure), minus);
    } else {
      Vector position = first(magnitude, negative);
      if constexpr (is_stochastic(lookup)) {
        const Vector wide = widened<C>(magnitude);
        position -= goes_up<C>(wide, Reals(at(start, position)), Reals(at(width, position)),
                               word & mask_, more_than(wide), unsure);
      } else if constexpr (cut) {
        unsure |= Vector(at(step, position) == above);
      }
      bits = at(value, position);
    }
    return select<Vector>(minus & (bits == none), none + negative_zero_, bits);
  }

 private:
  using Reals = FloatsOf<Computing<C>>;
  enum Field { step, value, start, width };

  /// By how much numbers may be more than those that were cut.
  static QS_INLINE Reals more_than(Vector wide) {
    const Reals none{};
    return cut ? Reals(wide) * (none + (C::width == 32 ? 0x1p-22 : 0x1p-51)) : none;
  }

  static QS_INLINE Vector signed_value(Vector size, mask_of<Vector> minus) {
    return size | select<Vector>(minus & (size != Vector()), Vector() + C::sign, Vector());
  }

  /// Magnitudes of values, by masked words: within a binade ν has at most as many bits as they.
  QS_INLINE Vector spaced(Vector magnitude, Vector word, Vector& unsure) const {
    constexpr Word top = Word(1) << (C::width - 1);
    const Vector none{}, one = none + 1;
    const auto at = spaced_.place(magnitude);
    const Vector unit = one << at.shift, lower = at.bits & (none - unit);
    auto carries = [&](Vector nu) QS_INLINE_LAMBDA {
      const Vector floor = nu & mask_;
      return Vector(signed_of((floor + word) ^ top) < signed_of(floor ^ top));
    };
    const Vector left = none + Word(C::width) - at.shift, nu = (at.bits - lower) << left;
    Vector up = carries(nu), doubt{};
    if constexpr (cut) doubt = carries(nu | ((one << left) - 1)) & ~up;
    // Beside zero, and where an interval is of several binades, ν is no such fraction.
    const auto special = (signed_of(magnitude) < signed_of(none + spaced_.least)) |
                         (signed_of(at.shift) > signed_of(none + Word(C::mantissa)));
    Vector from = spaced_.magnitudes(lower), to = from + unit;
    if (any<Vector>(special)) {
      Vector open{};
      const Vector further = goes_up_between(magnitude, from, to, spaced_.least, word, open);
      const Vector inside =
          Vector(special & (signed_of(magnitude) < signed_of(none + spaced_.greatest)));
      up = (up & ~inside) | (further & inside);
      doubt = (doubt & ~inside) | (open & inside);
    }
    unsure |= doubt;
    return select<Vector>(up != none, to, from);
  }

  /// The same where all binades are alike.
  QS_INLINE Vector periodic(Vector magnitude, Vector word, Vector& unsure) const {
    const Vector none{};
    Vector doubt{};
    auto [from, to] = periodic_.template around<false>(magnitude, doubt);
    const Vector up = goes_up_between(magnitude, from, to, periodic_.least, word, doubt);
    const auto inside = signed_of(magnitude) < signed_of(none + periodic_.greatest);
    unsure |= doubt & Vector(inside);
    return select<Vector>(inside & (up != none), to, from);
  }

  /// `goes_up` between neighbours, which are made zero and `least` where magnitudes are less.
  QS_INLINE Vector goes_up_between(Vector magnitude, Vector& from, Vector& to, Word least,
                                   Vector word, Vector& unsure) const {
    using B = Computing<C>;
    const Vector none{};
    const auto small = signed_of(magnitude) < signed_of(none + least);
    from = select<Vector>(small, none, from);
    to = select<Vector>(small, none + least, to);
    const Vector wide = widened<C>(magnitude);
    const Reals start = Reals(widened<C>(from)), width = Reals(widened<C>(to)) - start;
    constexpr int least_width = C::width == 32 ? -100 : -900;  // as in `table_index.of_view`
    unsure |= ~Vector(width >= Reals(none + join<B>({least_width, C::hidden})));
    return goes_up<C>(wide, start, width, word, more_than(wide), unsure);
  }

  static constexpr Word fields = is_stochastic(lookup) ? 4 : 2;

  QS_INLINE Vector at(Field field, Vector position) const {
    if constexpr (lookup == Lookup::short_stochastic) {
      return short_.at(field, position);
    } else {
      return gather(entries_ + field, position * fields);
    }
  }

  /// How many steps there are up to a magnitude, those of the positive sign before the others.
  QS_INLINE Vector first(Vector magnitude, mask_of<Vector> negative) const {
    const Vector none{};
    Vector position;
    if constexpr (lookup == Lookup::short_stochastic) {
      position = select<Vector>(negative, none + ShortSteps<C>::half, none);
    } else {
      const Vector bucket =
          lesser<Vector>(greater<Vector>(magnitude >> index_.shift, none + Word(index_.low)),
                         none + Word(index_.high)) -
          Word(index_.low);
      position = gather(
          first_,
          bucket + select<Vector>(negative, none + Word(index_.high - index_.low + 1), none));
    }
    const int levels = lookup == Lookup::short_stochastic ? 4 : index_.levels;
    for (int level = levels - 1; level >= 0; --level) {
      const Word half = Word(1) << level;
      const Vector next = at(step, position + (half - 1));
      position += select<Vector>(signed_of(next) <= signed_of(magnitude), none + half, none);
    }
    return position;
  }

  TableIndex index_;
  const Word *first_, *entries_;
  Word mask_, negative_zero_;
  const ShortTable<C>& compared_;
  const ShortSteps<C>& short_;
  SpacedValues<C> spaced_;
  PeriodicValues<C> periodic_;
};

QS_END
