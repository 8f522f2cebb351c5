// Sums of products in registers, each rounded to nearest even to few bits, in float32.
#pragma once
#include "common/accumulation.h"
#include "cpu/floats.h"

QS_BEGIN

/// One addition to float32 vectors, rounded once in effect, by a plan that `Matmul::plain` allows:
/// a and b have at most p ≤ 10 significant bits, those of the results.
///
/// Rounding a + b to 24 bits first does no harm. Where it is inexact, one of the two is less than
/// 2^(p - 22) times the sum, so that the sum lies that close to the other one, which is a result;
/// from there to the next midpoint it is 2^(-p - 1) times the sum, or more.
class PlainSum {
 public:
  explicit PlainSum(const Plan& plan)
      : f_(plan.element),
        constants_(constants_of<Single>(f_, 0)),
        drop_(Single::mantissa - f_.fraction),
        least_(join<Single>({greatest_of(f_.breakpoint, 1 - Single::bias), Single::hidden})),
        span_(least_of(constants_.bound, constants_.negative_bound) - least_) {}

  /// Whether a plan is of numbers that `fast` rounds.
  static bool fits(const Plan* plan) {
    if (!plan) return true;
    const Element& f = plan->element;
    return plan->family == Family::element && f.is_signed && f.fraction < Single::mantissa &&
           f.breakpoint < least_of(f.max_exponent, f.min_exponent) &&
           shape_of<Single>(f, 0, true) != Shape::any;
  }

#if defined(__AVX512F__)
  using Lanes = __mmask16;
  static bool none(Lanes lanes) { return lanes == 0; }
#else
  using Lanes = mask_of<Vector32>;
  static bool none(Lanes lanes) { return !any<Vector32>(lanes); }
#endif
  /// Lanes that `fast` does not round: it does zeros, and numbers in the range whose spacing goes
  /// with their binade.
  QS_INLINE Lanes others(Vector32 sum) const {
    const Vector32 above = (sum & (Single::sign - 1)) - least_;
#if defined(__AVX512F__)
    return _mm512_mask_cmpgt_epu32_mask(_mm512_test_epi32_mask(__m512i(sum), __m512i(sum)),
                                        __m512i(above), __m512i(Vector32() + span_));
#else
    return (above > Vector32() + span_) & (sum != Vector32());
#endif
  }
  QS_INLINE Vector32 fast(Vector32 sum) const {
    const Vector32 odd = (sum >> drop_) & 1;
    return (sum + odd + ((1u << (drop_ - 1)) - 1)) & ~((1u << drop_) - 1);
  }
  Vector32 slow(Floats a, Floats b) const {
    return round_element<Single, Shape::regular>(Known<Mode::nearest_even>(),
                                                 odd_sum<Single, Vector32>(a, b), Vector32(),
                                                 constants_, f_, 0);
  }
  QS_INLINE Vector32 operator()(Floats a, Floats b) const {
    const Vector32 sum = Vector32(a + b);
    return none(others(sum)) ? fast(sum) : slow(a, b);
  }

 private:
  Element f_;
  Constants<Single> constants_;
  int drop_;
  uint32_t least_, span_;
};

/// s + a·b, whose product is exact.
QS_INLINE Vector32 with_product(Vector32 s, Floats a, Floats b) {
#if defined(__AVX512F__)
  return Vector32(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(s)));
#else
  return Vector32(Floats(s) + a * b);
#endif
}

/// Sums of some columns of one row, `vectors` of them: terms a[k]·b[k] of which `pitch` elements
/// lie from one to the next, by chunks of `chunk`. N: lanes of the last vector.
template <int vectors, class N>
void plain_sums(const PlainSum& given, const PlainSum* total, const uint32_t* a, const uint32_t* b,
                int64_t pitch, int64_t terms, int64_t chunk, uint32_t* out, N lanes) {
  using V = Vectors<Single>;
  const PlainSum sum = given;  // a copy that no store can change
  Vector32 totals[vectors] = {};
  for (int64_t first = 0; first < terms; first += chunk) {
    Vector32 sums[vectors] = {};
    for (int64_t k = first; k < least_of(first + chunk, terms); ++k) {
      const Floats factor = Floats(Vector32() + a[k]);
      Floats other[vectors];
      Vector32 exact[vectors];
      PlainSum::Lanes slow{};
      for (int v = 0; v < vectors; ++v) {
        other[v] = Floats(V::load(b + k * pitch + v * V::count, lanes));
        exact[v] = with_product(sums[v], factor, other[v]);
        slow |= sum.others(exact[v]);
      }
      if (PlainSum::none(slow)) {
        for (int v = 0; v < vectors; ++v) sums[v] = sum.fast(exact[v]);
      } else {
        for (int v = 0; v < vectors; ++v) sums[v] = sum(Floats(sums[v]), factor * other[v]);
      }
    }
    for (int v = 0; v < vectors; ++v)
      totals[v] = total ? (*total)(Floats(totals[v]), Floats(sums[v])) : sums[v];
  }
  for (int v = 0; v < vectors; ++v) V::store(out + v * V::count, totals[v], lanes);
}

QS_END
