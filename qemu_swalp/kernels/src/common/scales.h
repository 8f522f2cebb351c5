// The scales of blocks, by every rule (clauses BLK-3, BLK-7 to BLK-9, BLK-11, BLK-18); the C++ of
// `reference/block_scales.py` and `reference/nvfp4.py`.
#pragma once
#include "common/quotient.h"

QS_BEGIN

enum class Rule : int32_t {
  floor,
  ceil,
  rceil,
  even,
  nearest,
  minmax,
  two_nearest,
  transformer_engine,
  torchao,
  ggml
};

QS_FUNCTION constexpr bool is_power(Rule rule) { return rule <= Rule::even; }
QS_FUNCTION constexpr bool is_two_level(Rule rule) {
  return rule >= Rule::two_nearest && rule != Rule::ggml;
}
/// Whether scales follow from amax by steps of float32 arithmetic.
QS_FUNCTION constexpr bool follows_float32(Rule rule) { return rule >= Rule::two_nearest; }
/// Whether elements are multiplied, not divided.
QS_FUNCTION constexpr bool has_inverse(Rule rule) { return rule >= Rule::transformer_engine; }
/// Whether float32 lies between the product of element and scale and the source dtype.
QS_FUNCTION constexpr bool is_vendor(Rule rule) {
  return rule == Rule::transformer_engine || rule == Rule::torchao;
}

/// What amax is brought to.
struct Top {
  int32_t exponent;
  uint32_t bits32;       // float32 bits
  uint64_t significand;  // normalized to the source dtype's `significand`
};

/// What is known of the scales of a block format.
struct Scaling {
  Rule rule;
  int32_t least_power, greatest_power;  // of scales that are powers of two
  int32_t even_bits;                    // bits after the leading one that rule `even` keeps
  int32_t spoiled_from;                 // the least `Extremes::special` that makes a block NaN
  int32_t in_table;                     // whether elements are values of a table
  int32_t top_count;  // of tops to be tried, of which the one of the least error is taken (BLK-17)
  Top top;
  const Top* tops;
  uint32_t scale_max32, scale_least32, full_range32;  // float32 bits: scale max and least, M·max
  Element scale;  // the format of other scales, as positive numbers of the source dtype (two
                  // levels: of float32)
};

/// What the scale of a block follows from: magnitude bits.
template <class C>
struct Extremes {
  typename C::Word amax;     // rule minmax: of the positive elements
  typename C::Word low;      // rule minmax: of the negative ones
  typename C::Word special;  // `special_of` its magnitudes
};

/// What is not finite among elements whose greatest magnitude this is: 0 nothing, 1 infinities, 2
/// NaN and perhaps infinities.
template <class C>
QS_FUNCTION typename C::Word special_of(typename C::Word magnitude) {
  return (magnitude >= C::infinity) + (magnitude > C::infinity);
}

/// A block's scale.
template <class C>
struct Scale {
  int power;  // S of 2^S
  Number<C> number;
  uint32_t inverse;  // float32 bits by which the vendor rules multiply
  typename C::Word zero_point;
  typename C::Word nan;      // 1 where the block is NaN throughout
  typename C::Word special;  // as in Extremes
};

/// A positive number in words V: its exponent, signed, and its significand as in `Number`.
template <class V>
struct Parts {
  V exponent, significand;
};
template <class C, class V>
QS_FUNCTION Parts<V> parts_of(V magnitude) {
  const V none{}, field = greater<V>(magnitude >> C::mantissa, none + 1) - 1;
  const V sig = magnitude - (field << C::mantissa), e = leads<V>(greater<V>(sig, none + 1));
  return {e + field + C::least_exponent, sig << (C::significand - e)};
}

/// S of blocks as signed words (BLK-3, BLK-7).
template <class C, class V, class Word = typename C::Word>
QS_FUNCTION V powers_of(V amax, const Scaling& scaling) {
  const V none{}, least = none + Word(scaling.least_power);
  const Parts<V> x = parts_of<C, V>(amax);
  V s = x.exponent - Word(scaling.top.exponent);
  if (scaling.rule == Rule::ceil) s += one_where<V>(x.significand != none + C::hidden);
  if (scaling.rule == Rule::rceil)
    s += one_where<V>(signed_of(x.significand) > signed_of(none + Word(scaling.top.significand)));
  if (scaling.rule == Rule::even && scaling.even_bits < C::significand) {
    const Word from = 2 * C::hidden - (C::hidden >> (scaling.even_bits + 1));
    s += one_where<V>(signed_of(x.significand) >= signed_of(none + from));
  }
  s = greater<V>(least, lesser<V>(s, none + Word(scaling.greatest_power)));
  return select<V>(amax == none, least, s);
}

template <class C>
QS_FUNCTION Number<C> scale_of_quotient(typename C::Word sig, int ulp, Number<C> divisor,
                                        const Element& scale) {
  return in_range(round_quotient<C>(Mode::nearest_even, sig, ulp, divisor, scale, 0, 0, 0), scale);
}

/// more + less, magnitude bits with more ≥ less, in the scale's format. Three bits below the
/// greater number's last, the lowest of them set where anything is left: enough to round once.
template <class C>
QS_FUNCTION Number<C> sum_in(const Element& scale, typename C::Word more, typename C::Word less) {
  using Word = typename C::Word;
  const Number<C> a = number_of_bits<C>(more), b = number_of_bits<C>(less);
  const int down = greatest_of(0, least_of(a.exponent - b.exponent, int(C::width) - 1));
  const Word addend = less == 0 ? 0 : b.significand * 8;
  Word shifted = addend >> down;
  shifted |= (shifted << down) != addend;
  const Word total = a.significand * 8 + shifted;
  const int ulp = a.exponent - C::significand - 3;
  const int q = greatest_of(ulp, quantum(scale, lead(total) + ulp));
  const Word shift = Word(
      least_of(q - ulp, int(C::width) - 1));  // at most width - 3 bits: below 1/2 from there on
  const Fraction<Word> nu = {shift ? total << (C::width - shift) : 0, 0};
  Word n = total >> shift;
  n += rounds_up(Mode::nearest_even, nu, Word(n & 1), Word(0), Word(0), Word(0)) ? 1 : 0;
  return in_range(number<C>(n, q), scale);
}

/// A rounded magnitude that is an integer, or beyond 2^significand.
template <class C>
QS_FUNCTION typename C::Word integer_of(Number<C> x) {
  if (x.significand == 0) return 0;
  const int down = C::significand - x.exponent;
  return x.significand >> greatest_of(0, least_of(down, int(C::significand)));
}

/// float32 magnitude bits in the format of scales, nearest even, saturating.
template <class V>
QS_FUNCTION V in_format(V magnitude, const Element& scale);
template <>
QS_FUNCTION uint32_t in_format(uint32_t magnitude, const Element& scale) {
  return round_element<Single, Shape::any>(Mode::nearest_even, magnitude, 0u,
                                           constants_of<Single>(scale, 0), scale, 0);
}

template <class C>
QS_FUNCTION Number<C> number_of_scale32(uint32_t bits) {
  const Number<Single> x = number_of_bits<Single>(bits);
  return {x.exponent, typename C::Word(x.significand) << (C::significand - Single::significand)};
}

/// What the blocks of an array under two levels of scales have in common: float32 bits.
struct GlobalScale {
  uint32_t scale;    // the array's scale; transformer_engine: the amax of the array
  uint32_t factor;   // transformer_engine: what amax is multiplied by
  uint32_t inverse;  // 1 over the array's scale; transformer_engine: over e
  uint32_t share;    // transformer_engine: 1/(M·max)
};

QS_FUNCTION GlobalScale global_scale_of(uint32_t whole, const Scaling& scaling) {
  if (scaling.rule == Rule::two_nearest) {
    return {greatest_of(divide32(divide32(whole, scaling.top.bits32), scaling.scale_max32), 1u), 0,
            0, 0};
  }
  if (scaling.rule == Rule::transformer_engine) {
    const uint32_t encode =
        whole == 0 ? one32 : least_of(divide32(scaling.full_range32, whole), largest32);
    return {whole, multiply32(encode, divide32(one32, scaling.top.bits32)), divide32(one32, encode),
            divide32(one32, scaling.full_range32)};
  }
  const uint32_t scale = divide32(whole, scaling.full_range32);
  return {scale, 0, divide32(one32, scale), 0};
}

/// float32 bits of blocks' scales under one of the whole array, and of what the vendor rules
/// multiply by.
template <class V>
struct TwoLevels {
  V scale, inverse;
};

/// BLK-9, BLK-11, BLK-18. amax: float32 bits.
template <class V>
QS_FUNCTION TwoLevels<V> two_levels(V amax, const GlobalScale& global, const Scaling& scaling) {
  const V none{}, greatest = none + largest32, array = none + global.scale;
  V scale, inverse{};
  if (scaling.rule == Rule::two_nearest) {
    const V wanted =
        lesser<V>(divide32<V>(divide32<V>(amax, none + scaling.top.bits32), array), greatest);
    const V block = greater<V>(in_format<V>(wanted, scaling.scale), none + scaling.scale_least32);
    scale = greater<V>(multiply32<V>(block, array), none + 1);
  } else if (scaling.rule == Rule::transformer_engine) {
    const V block =
        in_format<V>(lesser<V>(multiply32<V>(amax, none + global.factor), greatest), scaling.scale);
    inverse =
        lesser<V>(divide32<V>(none + one32, multiply32<V>(block, none + global.inverse)), greatest);
    scale = multiply32<V>(multiply32<V>(block, array), none + global.share);
  } else if (scaling.rule == Rule::ggml) {
    const V exact = divide32<V>(amax, none + scaling.top.bits32);
    inverse = select<V>(exact == none, none, lesser<V>(divide32<V>(none + one32, exact), greatest));
    scale = in_format<V>(exact, scaling.scale);
  } else {
    const V least = none + 0x3C800000u;  // 2^-6
    const V wanted = divide32<V>(divide32<V>(amax, none + scaling.top.bits32), array);
    const V block = in_format<V>(greater<V>(least, lesser<V>(wanted, none + scaling.scale_max32)),
                                 scaling.scale);
    inverse = divide32<V>(none + global.inverse, block);
    scale = multiply32<V>(block, array);
  }
  return {lesser<V>(scale, greatest), inverse};
}

template <class C>
QS_FUNCTION bool is_spoiled(typename C::Word special, const Scaling& scaling) {
  return special >= typename C::Word(scaling.spoiled_from);
}

/// The scale of a block that these are of.
template <class C>
QS_FUNCTION Scale<C> scale_of_two(uint32_t scale, uint32_t inverse, typename C::Word special,
                                  const Scaling& scaling) {
  return {0, number_of_scale32<C>(scale), inverse, 0, is_spoiled<C>(special, scaling), special};
}

/// Scale of a block by any rule.
template <class C>
QS_FUNCTION Scale<C> scale_of(Extremes<C> block, const GlobalScale& global, const Element& f,
                              const Scaling& scaling) {
  using Word = typename C::Word;
  Scale<C> scale = {};
  if (is_power(scaling.rule)) {
    scale.power = int(signed_of(powers_of<C, Word>(block.amax, scaling)));
    scale.number = {scale.power, C::hidden};
  } else if (follows_float32(scaling.rule)) {
    const TwoLevels<uint32_t> levels =
        two_levels<uint32_t>(to_binary32<C>(block.amax), global, scaling);
    return scale_of_two<C>(levels.scale, levels.inverse, block.special, scaling);
  } else {
    const Number<C> top = {scaling.top.exponent, Word(scaling.top.significand)};
    if (scaling.rule == Rule::nearest) {
      const Number<C> x = number_of_bits<C>(block.amax);
      scale.number =
          scale_of_quotient<C>(x.significand, x.exponent - C::significand, top, scaling.scale);
    } else {
      const Word more = greatest_of(block.amax, block.low), less = least_of(block.amax, block.low);
      const Number<C> width = more ? sum_in<C>(scaling.scale, more, less) : Number<C>{0, 0};
      scale.number = scale_of_quotient<C>(width.significand, width.exponent - C::significand, top,
                                          scaling.scale);
      const Number<C> low = number_of_bits<C>(block.low);
      const Word z =
          integer_of(round_quotient<C>(Mode::nearest_even, low.significand,
                                       low.exponent - C::significand, scale.number, f, 0, 0, 0));
      scale.zero_point = least_of(z, integer_of(top));
    }
  }
  scale.nan = is_spoiled<C>(block.special, scaling);
  scale.special = block.special;
  return scale;
}

QS_END
