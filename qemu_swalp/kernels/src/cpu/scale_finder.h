// Scales of blocks on a CPU, a vector of them at a time; `scale_of` is what they equal.
#pragma once
#include "cpu/scratch.h"

QS_BEGIN

/// The greatest of each k lanes that follow one another, in all of them; k less than a vector has.
template <class C>
class Spread {
 public:
  using Word = typename C::Word;
  using V = Vectors<C>;
  using Vector = typename V::V;

  explicit Spread(int64_t k) : k_(k), lanes_(V::count / k * k) {
    for (int64_t apart = 1; apart < k; apart *= 2, ++steps_) {
      for (int64_t i = 0; i < V::count; ++i)
        later_[steps_][i] = Word(i % k + apart < k && i + apart < V::count ? i + apart : i);
    }
    for (int64_t i = 0; i < V::count; ++i) {
      first_[i] = Word(i / k * k);
      block_[i] = Word(i / k);
      start_[i] = Word(i * k < lanes_ ? i * k : 0);
    }
  }

  /// How many lanes whole blocks fill.
  int64_t lanes() const { return lanes_; }

  QS_INLINE Vector operator()(Vector x) const {
    return k_ == 1 ? x : turned<Vector>(greatest(x), first_);
  }
  /// The greatest of each block, in the first lanes.
  QS_INLINE Vector of_blocks(Vector x) const {
    return k_ == 1 ? x : turned<Vector>(greatest(x), start_);
  }
  /// The first lanes, each k times.
  QS_INLINE Vector repeated(Vector x) const { return k_ == 1 ? x : turned<Vector>(x, block_); }

  void operator()(Word* values, int64_t n) const {
    for (int64_t i = 0; i < n; i += lanes_) {
      const size_t count = size_t(least_of(lanes_, n - i));
      V::store_words(values + i, (*this)(V::load_words(values + i, count)), count);
    }
  }

 private:
  /// Of each block, in its first lane.
  QS_INLINE Vector greatest(Vector x) const {
    for (int step = 0; step < steps_; ++step)
      x = greater<Vector>(x, turned<Vector>(x, later_[step]));
    return x;
  }

  int64_t k_, lanes_;
  int steps_ = 0;
  Vector later_[4], first_, block_, start_;
};

template <class C>
class ScaleFinder {
 public:
  using B = Computing<C>;
  using Word = typename C::Word;
  using V = Vectors<C>;
  using Vector = typename V::V;
  using Reals = FloatsOf<B>;

  explicit ScaleFinder(const Plan& plan) : ScaleFinder(plan, plan.scaling.top) {}

  /// With another top.
  ScaleFinder(const Plan& plan, const Top& top) : plan_(plan), scaling_(plan.scaling) {
    if (plan.family != Family::block) return;
    scaling_.top = top;
    const Element& f = plan.element;
    spoils_above_ = scaling_.spoiled_from == 1   ? C::infinity - 1
                    : scaling_.spoiled_from == 2 ? C::infinity
                                                 : C::sign - 1;
    if (is_power(scaling_.rule)) {
      vectors_ = scaling_.in_table ? scaling_.least_power >= B::least_exponent &&
                                         scaling_.greatest_power <= B::bias
                                   : f.table_count == 0 && f.breakpoint + C::bias > -(1 << 16);
      return;
    }
    const Element& scale = scaling_.scale;
    vectors_ = (scaling_.in_table || takes_quotients<B>(element())) &&
               (follows_float32(scaling_.rule) ? C::width == 32 : takes_scales<B>(scale));
    // Products of others than float32 have a residual (`multiplied`).
    if (scaling_.rule == Rule::ggml && C::mantissa < B::mantissa && scale.least_exponent < -81)
      vectors_ = false;
    if (scaling_.rule != Rule::nearest || !vectors_) return;
    top_ = join<B>({top.exponent, Word(top.significand)});
    const bool holds_top = top.exponent > -32;
    exact_ = scale.fraction == B::mantissa && scale.ulp_exponent == B::least_exponent;
    by_vectors_ = holds_top && (exact_ || (scale.fraction <= B::mantissa - 2 &&
                                           shape_of<B>(scale, 0, true) != Shape::any));
    constants_ = constants_of<B>(scale, 0);
    greatest_ = join<B>({scale.max_exponent, Word(scale.max_significand)});
    least_ = join<B>({scale.least_exponent, C::hidden});
    // Above, quotients are normal and no bit of a residual lies below the least subnormal
    // (`quotient_to_odd`); a quotient in the dtype itself needs neither.
    const int from =
        greatest_of(B::least_exponent + 2 * B::mantissa + 1, 2 - B::bias + top.exponent);
    least_amax_ = exact_ ? 1 : join<B>({from, C::hidden});
  }

  /// The scale of a block.
  Scale<C> scale_of(Extremes<C> block, const GlobalScale& global) const {
    return QS_VARIANT::scale_of<C>(block, global, plan_.element, scaling_);
  }

  /// Whether the scales are such that elements are rounded in vectors under scales of their own.
  bool vectors() const { return vectors_; }
  /// Whether units have powers of two as signed words.
  bool keeps_powers() const { return is_power(scaling_.rule) && !scaling_.in_table; }
  const Element& element() const { return C::width == 32 ? plan_.element32 : plan_.element; }

  /// Scales of the first n units; k of them have one in common.
  void find(Units<C>& u, int64_t n, int64_t k, const GlobalScale& global) const {
    u.resize_scales(n);
    find_all(u, n, k, global);
  }

  /// Scales of the elements of a row of blocks narrower than a vector, each k elements alike: those
  /// of the blocks, then repeated where they lie, from the last on.
  void find_in_row(Units<C>& u, const typename C::Stored* from, int64_t n, int64_t k,
                   const GlobalScale& global) const {
    const Spread<C> spread(k);
    const int64_t blocks = (n + k - 1) / k, lanes = spread.lanes(), together = lanes / k;
    u.resize_extremes(blocks + V::count);
    u.resize_scales(n + V::count);
    const Vector none{};
    for (int64_t i = 0, b = 0; i < n; i += lanes, b += together) {
      const Vector magnitude = V::load(from + i, size_t(least_of(lanes, n - i))) & (C::sign - 1);
      const auto infinite = signed_of(magnitude) >= signed_of(none + C::infinity);
      const Vector most = spread.of_blocks(magnitude);
      Vector amax = most;
      if (any<Vector>(infinite)) amax = spread.of_blocks(select<Vector>(infinite, none, magnitude));
      V::store_words(&u.amax[size_t(b)], amax, Whole<V::count>());
      V::store_words(&u.most[size_t(b)], most, Whole<V::count>());
    }
    find_all(u, blocks, 1, global);
    const bool divides = !keeps_powers() && !has_inverse(scaling_.rule);
    if (divides) u.invert_scales(blocks);
    for (auto* words : {&u.scale, &u.extra, &u.inverse}) {
      if (words == &u.inverse ? !divides : words == &u.extra && !has_inverse(scaling_.rule))
        continue;
      Word* at = words->data();
      for (int64_t b = (blocks - 1) / together * together; b >= 0; b -= together) {
        const Vector own = V::load_words(at + b, Whole<V::count>());
        V::store_words(at + b * k, spread.repeated(own), size_t(lanes));
      }
    }
    u.resize_scales(n);
    u.inverted = divides;
  }

  /// A scale as units have it.
  void put(Units<C>& u, int64_t i, const Scale<C>& scale) const {
    const bool power = keeps_powers();
    u.scale[size_t(i)] = scale.nan ? (power ? Word(no_power) : B::nan)
                         : power   ? Word(scale.power)
                                   : join<B>({scale.number.exponent, scale.number.significand});
    u.extra[size_t(i)] = has_inverse(scaling_.rule) ? Word(scale.inverse) : scale.zero_point;
  }

 private:
  /// `find`, where there is room for the scales.
  void find_all(Units<C>& u, int64_t n, int64_t k, const GlobalScale& global) const {
    Vector all_most{};
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      const Vector amax = V::load_words(&u.amax[size_t(i)], count);
      const Vector most = V::load_words(&u.most[size_t(i)], count);
      all_most = greater<Vector>(all_most, most);
      if (!put_vector(u, i, amax, most, count, global))
        find_each(u, i, int64_t(size_t(count)), k, global);
    });
    u.infinities = any<Vector>(signed_of(all_most) >= signed_of(Vector() + C::infinity));
  }

  /// Scales of units from one on; false where a lane needs more than vectors give.
  template <class N>
  QS_INLINE bool put_vector(Units<C>& u, int64_t i, Vector amax, Vector most, N count,
                            const GlobalScale& global) const {
    const Vector none{};
    const auto spoiled = signed_of(most) > signed_of(none + spoils_above_);
    Vector scale, extra{}, nan = none + B::nan;
    if (is_power(scaling_.rule)) {
      scale = powers_of<C, Vector>(amax, scaling_);
      if (keeps_powers()) {
        nan = none + Word(no_power);
      } else {
        scale = joined<B, Vector>(scale, B::hidden);
      }
    } else if (scaling_.rule == Rule::minmax || !of_floats(amax, global, scale, extra)) {
      return false;
    }
    V::store_words(&u.scale[size_t(i)], select<Vector>(spoiled, nan, scale), count);
    V::store_words(&u.extra[size_t(i)], extra, count);
    return true;
  }

  /// False where a lane needs more than vectors give.
  bool of_floats(Vector amax, const GlobalScale& global, Vector& scale, Vector& extra) const {
    const Vector none{}, wide = widened<C>(amax);
    if (follows_float32(scaling_.rule)) {
      if constexpr (C::width == 32) {
        const TwoLevels<Vector32> levels = two_levels<Vector32>(wide, global, scaling_);
        scale = levels.scale;
        extra = levels.inverse;
      }
      return true;
    }
    const auto tiny = (wide != none) & (signed_of(wide) < signed_of(none + least_amax_));
    if (!by_vectors_ || any<Vector>(tiny)) return false;
    const Reals top = Reals(none + top_);
    scale = exact_ ? Vector(Reals(wide) / top)
                   : rounded<B, Shape::regular>(Known<Mode::nearest_even>(),
                                                quotient_to_odd<B>(Reals(wide), top), none,
                                                constants_, scaling_.scale, 0);
    scale = greater<Vector>(none + least_, lesser<Vector>(scale, none + greatest_));
    return true;
  }

  void find_each(Units<C>& u, int64_t first, int64_t n, int64_t k,
                 const GlobalScale& global) const {
    for (int64_t i = first; i < first + n; ++i) {
      if (i % k) {
        u.scale[size_t(i)] = u.scale[size_t(i - 1)];
        u.extra[size_t(i)] = u.extra[size_t(i - 1)];
      } else {
        put(u, i, scale_of(u.extremes(i), global));
      }
    }
  }

  const Plan& plan_;
  Scaling scaling_;
  bool vectors_ = false, by_vectors_ = false, exact_ = false;
  Word spoils_above_ = 0, top_ = 0, greatest_ = 0, least_ = 0, least_amax_ = 0;
  Constants<B> constants_{};
};

QS_END
