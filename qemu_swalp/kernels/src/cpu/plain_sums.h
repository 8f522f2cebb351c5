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
  /// A sum that `Matmul::plain` is sure of: a multiple of the least positive number, so that below
  /// the range of `fast` it has few bits, and less than the greatest number. Adding 2^drop of its
  /// binade and taking that off again rounds it, since there floats lie as far apart as results.
  QS_INLINE Vector32 sure(Floats sum) const {
    const Floats shift = Floats((Vector32(sum) & (Single::sign | Single::infinity)) +
                                (uint32_t(drop_) << Single::mantissa));
    return Vector32((sum + shift) - shift);
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
#elif defined(__FMA__)
  return Vector32(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(s)));
#else
  return Vector32(Floats(s) + a * b);
#endif
}

/// Adds `terms` products to each of the sums of `rows` rows and `vectors` vectors of columns, which
/// lie row by row: of row r they are a[r·a_pitch + k]·b[k], of b `vectors` vectors for each k.
template <bool sure, int rows, int vectors>
__attribute__((noinline)) void add_terms(const PlainSum& given, const uint32_t* a, int64_t a_pitch,
                                         const uint32_t* b, int64_t terms, uint32_t* sums) {
  using V = Vectors<Single>;
  constexpr Whole<V::count> all;
  const PlainSum sum = given;  // a copy that no store can change
  Vector32 sums_of[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sums_of[r][v] = V::load(sums + (r * vectors + v) * V::count, all);
  for (int64_t k = 0; k < terms; ++k, b += vectors * V::count) {
    Floats other[vectors];
    for (int v = 0; v < vectors; ++v) other[v] = Floats(V::load(b + v * V::count, all));
    if constexpr (sure) {
      for (int r = 0; r < rows; ++r) {
        const Floats factor = Floats(Vector32() + a[r * a_pitch + k]);
        for (int v = 0; v < vectors; ++v)
          sums_of[r][v] = sum.sure(Floats(with_product(sums_of[r][v], factor, other[v])));
      }
    } else {
      for (int r = 0; r < rows; ++r) {
        const Floats factor = Floats(Vector32() + a[r * a_pitch + k]);
        Vector32 exact[vectors];
        PlainSum::Lanes slow{};
        for (int v = 0; v < vectors; ++v) {
          exact[v] = with_product(sums_of[r][v], factor, other[v]);
          slow |= sum.others(exact[v]);
        }
        if (PlainSum::none(slow)) {
          for (int v = 0; v < vectors; ++v) sums_of[r][v] = sum.fast(exact[v]);
        } else {
          for (int v = 0; v < vectors; ++v)
            sums_of[r][v] = sum(Floats(sums_of[r][v]), factor * other[v]);
        }
      }
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      V::store(sums + (r * vectors + v) * V::count, sums_of[r][v], all);
}

/// The same for any number of rows, of which so many at once as have sums enough in registers that
/// none waits for itself.
template <bool sure, int vectors>
void add_rows(const PlainSum& sum, int64_t rows, const uint32_t* a, int64_t a_pitch,
              const uint32_t* b, int64_t terms, uint32_t* sums) {
  constexpr int together = vectors == 1 ? 8 : vectors == 2 ? 4 : 2;
  constexpr int64_t pitch = vectors * Vectors<Single>::count;
  int64_t r = 0;
  for (; r + together <= rows; r += together)
    add_terms<sure, together, vectors>(sum, a + r * a_pitch, a_pitch, b, terms, sums + r * pitch);
  for (; r < rows; ++r)
    add_terms<sure, 1, vectors>(sum, a + r * a_pitch, a_pitch, b, terms, sums + r * pitch);
}

QS_END
