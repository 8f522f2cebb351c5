// Runs of float32 elements under scales that are no powers of two, in vectors; `round_scaled` is what they equal.
//
// Here floats are multiplied and divided, each operation rounded once to nearest even with subnormals kept, which
// `StandardFloats` sees to. Quotients are taken in float64. They are off by up to half a unit in the last place, which no
// deterministic mode can see: x/s = a/b with a, b < 2^24 lies at least 1/(b·M) of a bound M/2^j away, M < 2^25 (a value of
// the element format, or the middle of two), or on it, and float64 tells 2^-49 apart. A stochastic mode has finer bounds:
// there both neighbours of the quotient are rounded. Rounding with a given word is monotone, so if they agree, that is the
// result; else the element goes by `round_scaled`.
#pragma once
#include "cpu/rows.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

QS_BEGIN

/// Rounding to nearest even, without flushing, as long as it lives.
class StandardFloats {
#if defined(__x86_64__)
 public:
  StandardFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~StandardFloats() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
 public:
  StandardFloats() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
  }
  ~StandardFloats() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef double Doubles __attribute__((vector_size(vector_bytes)));
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));
typedef uint32_t HalfLanes __attribute__((vector_size(vector_bytes / 2)));

/// The published rules: |x|⊗i rounded, then times s.
template <class M>
inline void round_published_run(M mode, const uint32_t* from, uint32_t* to, int64_t n, const uint32_t* words,
                                const Scale<Single>& scale, const Steps<Single>& given, const Element& f) {
  using V = Vectors<Single>;
  using Lanes = V::V;
  const Lanes none{};
  const Steps<Single> s = given;
  const Floats inverse = Floats(none + scale.inverse), factor = Floats(none + join<Single>(scale.number));
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    const Lanes raw = V::load(from + i, count), magnitude = raw & (Single::sign - 1);
    const Lanes finite = select<Lanes>(signed_of(magnitude) < signed_of(none + Single::infinity), magnitude, none);
    const Lanes scaled = select<Lanes>(finite == none, none, Lanes(Floats(finite) * inverse));
    const Lanes word = is_stochastic(mode) ? V::words(words + i, count) : Lanes();
    const Lanes r = rounded<Single, Shape::regular>(mode, scaled | (raw & Single::sign), word, s, f, 0);
    const Lanes kept = select<Lanes>(signed_of(r) < signed_of(none + largest32), r, none + largest32);
    const Lanes element = checked<Single, Shape::regular>(raw, kept, s), size = element & (Single::sign - 1);
    const Lanes product = Lanes(Floats(size) * factor);
    const Lanes cut = select<Lanes>(signed_of(product) < signed_of(none + largest32), product, none + largest32);
    const auto as_is = (size == none) | (signed_of(size) >= signed_of(none + Single::infinity));
    V::store(to + i, select<Lanes>(as_is, element, cut | (element & Single::sign)), count);
  });
}

/// The other rules: x/s rounded (less a zero point), then times s. `slow(i)`: element i by `round_scaled`.
template <class M, class Slow>
inline void round_quotient_run(M mode, const uint32_t* from, uint32_t* to, int64_t n, const uint32_t* words,
                               const Scale<Single>& scale, const Steps<Double>& given, const Element& f, bool affine,
                               Slow slow) {
  using V = Vectors<Double>;
  using Lanes = V::V;
  const Lanes none{};
  const Steps<Double> s = given;
  uint64_t factor_bits = join<Double>({scale.number.exponent, uint64_t(scale.number.significand) << 29});
  const Doubles factor = Doubles(none + factor_bits);
  const double most = double(affine ? integer_of<Double>({f.max_exponent, f.max_significand}) : 0);
  const Doubles above = Doubles{} + (most - double(scale.zero_point)), below = Doubles{} + double(scale.zero_point);
  in_vectors<V::count>(n, [&](int64_t i, auto count) {
    HalfLanes narrow{};
    __builtin_memcpy(&narrow, from + i, count * sizeof(uint32_t));
    const Lanes raw = Lanes(__builtin_convertvector(HalfFloats(narrow), Doubles));
    const Lanes sign = raw & Double::sign, magnitude = raw ^ sign;
    const Lanes finite = select<Lanes>(signed_of(magnitude) < signed_of(none + Double::infinity), magnitude, none);
    const Lanes quotient = Lanes(Doubles(finite) / factor);
    const Lanes word = is_stochastic(mode) ? V::words(words + i, count) : Lanes();
    Lanes r;
    bool sure = true;
    if (is_stochastic(mode)) {
      const Lanes step = select<Lanes>(quotient == none, none, none + 1);
      r = rounded<Double, Shape::regular>(mode, (quotient - step) | sign, word, s, f, 0);
      const Lanes other = rounded<Double, Shape::regular>(mode, (quotient + step) | sign, word, s, f, 0);
      sure = greatest_lane(one_where<Lanes>(r != other)) == 0;
    } else {
      r = rounded<Double, Shape::regular>(mode, quotient | sign, word, s, f, 0);
    }
    if (!sure) {
      for (int64_t j = i; j < i + int64_t(size_t(count)); ++j) to[j] = slow(j);
      return;
    }
    Lanes element;
    if (affine) {
      const Doubles bound = Doubles(select<Lanes>(sign != none, Lanes(below), Lanes(above)));
      const Lanes least = select<Lanes>(signed_of(r) < signed_of(Lanes(bound)), r, Lanes(bound));
      const Lanes cut = select<Lanes>(magnitude == none + Double::infinity, Lanes(bound), least);
      element = select<Lanes>(cut == none, none, cut | sign);
    } else {
      element = checked<Double, Shape::regular>(raw, r, s);
    }
    const Lanes size = element & (Double::sign - 1), minus = element & Double::sign;
    const HalfFloats product = __builtin_convertvector(Doubles(size) * factor, HalfFloats);
    Lanes bits = __builtin_convertvector(HalfLanes(product), Lanes);
    bits = select<Lanes>(signed_of(bits) < signed_of(none + (Single::infinity - 1)), bits, none + (Single::infinity - 1));
    bits = select<Lanes>(size == none, none, bits);
    bits = select<Lanes>(size == none + Double::infinity, none + Single::infinity, bits);
    bits = select<Lanes>(signed_of(size) > signed_of(none + Double::infinity), none + Single::nan, bits);
    bits = bits | (minus >> 32);
    const auto nan = signed_of(magnitude) > signed_of(none + Double::infinity);
    const HalfLanes out = __builtin_convertvector(
        select<Lanes>(nan, __builtin_convertvector(narrow, Lanes), bits), HalfLanes);
    __builtin_memcpy(to + i, &out, count * sizeof(uint32_t));
  });
}

QS_END
