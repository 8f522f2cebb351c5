// Matrix products with every partial sum rounded, compiled for the rounding modes QS_PRODUCT,
// QS_SUM and QS_TOTAL; QS_HAS_PRODUCT, QS_HAS_TOTAL: whether products are rounded, and whether
// there are totals.
//
// A thread has an element of the result. What it costs is the rounding of each term, not the terms'
// way from memory. It is computed in float32 where that does (`matmul_in_float32.py`), which
// `qs_span` finds out, so that the host need not look.
#include "common/layouts.h"
#include "cuda/segments.h"

QS_BEGIN

using OfProduct = Known<Mode::QS_PRODUCT>;
using OfSum = Known<Mode::QS_SUM>;
using OfTotal = Known<Mode::QS_TOTAL>;

/// Rounds what all threads of a block hold, again and again; M: the mode.
template <class C, class M>
class Rounder {
 public:
  using Word = typename C::Word;

  /// By all threads, which are in step from here on. keys, segment: in shared memory.
  QS_DEVICE Rounder(const Matmul& p, const Plan* plan, Part part, uint64_t element,
                    uint32_t (*keys)[2], Segment<C>& segment)
      : p_(p),
        plan_(plan),
        part_(part),
        element_(element + p.random.offset),
        keys_(keys),
        segment_(segment) {
    __syncthreads();
    if (threadIdx.x == 0 && plan && plan->family == Family::element)
      segment = segment_of<C>(plan->element, 0, true, false);
    __syncthreads();
  }

  QS_DEVICE Word operator()(Word raw, uint32_t step) {
    const Word word = is_stochastic(M()) ? Word(this->word(step)) << (C::width - 32) : 0;
    if (plan_->family == Family::table) return round_by_table<C>(M(), raw, word, plan_->table);
    return round_by<C>(M(), raw, word, segment_, plan_->element);
  }

 private:
  QS_DEVICE uint32_t word(uint32_t step) {
    const uint32_t turn = count_++ % threads;
    if (turn == 0) {  // keys of the next roundings, one by each thread
      Random random{};
      turn_to(random, p_, part_, count_ - 1 + threadIdx.x);
      __syncthreads();
      keys_[threadIdx.x][0] = random.key[0];
      keys_[threadIdx.x][1] = random.key[1];
      __syncthreads();
    }
    const Random random{nullptr, nullptr, 0, step, {keys_[turn][0], keys_[turn][1]}};
    const Words words = philox(uint32_t(element_ / 4), random);
    const uint32_t low = element_ % 2 ? words.at[1] : words.at[0],
                   high = element_ % 2 ? words.at[3] : words.at[2];
    return element_ % 4 < 2 ? low : high;
  }

  const Matmul& p_;
  const Plan* plan_;
  Part part_;
  uint64_t element_;
  uint32_t (*keys_)[2];
  Segment<C>& segment_;
  uint32_t count_ = 0;
};

struct Keys {
  uint32_t at[3][threads][2];
};

/// Which matrices of both operands.
struct Operands {
  int64_t a, b;
};

QS_DEVICE Operands operands_at(const Layout& batches, int64_t batch) {
  Operands found{0, 0};
  for (int axis = batches.axes - 1; axis >= 0; --axis) {
    const int64_t at = batch % batches.lengths[axis];
    batch /= batches.lengths[axis];
    found.a += at * batches.source_strides[axis];
    found.b += at * batches.target_strides[axis];
  }
  return found;
}

/// The product, computed in C, of arrays of Source. What lies beyond the result is computed, and
/// not written.
template <class C, class Source>
QS_DEVICE void multiply(const Matmul& p, const Layout& batches, const MatmulPlans& plans,
                        Keys& keys) {
  using Word = typename C::Word;
  using Float = typename FloatOf<Word>::Type;
  __shared__ Segment<C> segments[3];
  const int64_t total = p.batches * p.rows * p.columns, chunk = p.chunk ? p.chunk : p.terms;
  const uint32_t step = now(p.random).step;
  for (int64_t first = int64_t(blockIdx.x) * threads; first < total;
       first += int64_t(gridDim.x) * threads) {
    const int64_t element = least_of<int64_t>(first + threadIdx.x, total - 1);
    const int64_t row = element / p.columns, batch = row / p.rows;
    const Operands at = operands_at(batches, batch);
    const Source* a = static_cast<const Source*>(p.a) + (at.a * p.rows + row % p.rows) * p.terms;
    const Source* b =
        static_cast<const Source*>(p.b) + at.b * p.terms * p.columns + element % p.columns;
    Rounder<C, OfProduct> round_product(p, plans.product, Part::product, uint64_t(element),
                                        keys.at[0], segments[0]);
    Rounder<C, OfSum> round_sum(p, plans.sum, Part::sum, uint64_t(element), keys.at[1],
                                segments[1]);
    Rounder<C, OfTotal> round_total(p, plans.total, Part::total, uint64_t(element), keys.at[2],
                                    segments[2]);
    Word sum = 0, whole = 0;
    int64_t in_chunk = 0;
    for (int64_t k = 0; k < p.terms; ++k) {
      Float x, y;
      convert(a[k], x);
      convert(b[k * p.columns], y);
      Float term = qemu_swalp::multiply(x, y);
      if (QS_HAS_PRODUCT) term = bits_as<Float>(round_product(bits_as<Word>(term), step));
      sum = odd_sum<C, Word>(bits_as<Float>(sum), term);
      ++in_chunk;
      const bool ends = in_chunk == chunk || k + 1 == p.terms;
      if (ends || in_chunk % p.group == 0) sum = round_sum(sum, step);
      if (!QS_HAS_TOTAL || !ends) continue;
      whole = round_total(odd_sum<C, Word>(bits_as<Float>(whole), bits_as<Float>(sum)), step);
      sum = 0;
      in_chunk = 0;
    }
    if (first + threadIdx.x >= total) continue;
    convert(bits_as<Float>(QS_HAS_TOTAL ? whole : sum), static_cast<Source*>(p.out)[element]);
  }
}

/// Whether float32 holds each product, and more than each sum: `matmul_in_float32.suffices`.
QS_DEVICE bool single_does(const MatmulCall& call) {
  if (!call.spans) return false;
  const Span a = call.spans[0], b = call.spans[1];
  const int bits = int(a.bits + b.bits), most = int(a.most + b.most) - 2 * Single::bias;
  const int least = 510 - int(a.far + b.far) - 2 * Single::bias - (bits - 2);
  return bits <= Single::mantissa + 1 && least >= Single::least_exponent && most <= call.limit;
}

QS_END

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads)
    qs_span(const __grid_constant__ SpanCall call) {
  for (int side = 0; side < 2; ++side) {
    Span span{};
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < call.counts[side];
         i += int64_t(gridDim.x) * threads) {
      const uint32_t magnitude = call.arrays[side][i] & (Single::sign - 1),
                     field = magnitude >> Single::mantissa;
      if (magnitude == 0) continue;
      const uint32_t significand = (magnitude & (Single::hidden - 1)) | Single::hidden;
      const uint32_t lowest = significand & (0 - significand);  // the last bit that is set
      span.bits = greatest_of(span.bits, uint32_t(Single::mantissa + 1 - lead(lowest)));
      span.far = greatest_of(span.far, 255 - field);
      span.most = greatest_of(span.most, field);
    }
    const Span all{greatest_of_warp(span.bits), greatest_of_warp(span.far),
                   greatest_of_warp(span.most)};
    if (threadIdx.x % 32) continue;
    raise(&call.spans[side].bits, all.bits);
    raise(&call.spans[side].far, all.far);
    raise(&call.spans[side].most, all.most);
  }
}

extern "C" __global__ void __launch_bounds__(threads)
    qs_matmul(const __grid_constant__ MatmulCall call) {
  __shared__ Keys keys;
  const Matmul& p = call.matmul;
  if (p.dtype == Dtype::float64) return multiply<Double, double>(p, call.batches, p.plans, keys);
  if (single_does(call)) return multiply<Single, float>(p, call.batches, call.single, keys);
  multiply<Double, float>(p, call.batches, p.plans, keys);
}
