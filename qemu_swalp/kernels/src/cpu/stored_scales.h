// Scales and zero points that programs of other libraries give to a stored call (clause BLK-16).
#pragma once
#include <cstring>
#include <limits>
#include <vector>

#include "common/layouts.h"
#include "cpu/standard_floats.h"

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

QS_EXPORT void qs_quantize(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                           const qemu_swalp::Random* random, const void* source, void* target,
                           int threads);
QS_EXPORT void qs_quantize_given(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                                 const qemu_swalp::Random* random, const qemu_swalp::Given* given,
                                 const void* source, void* target, int threads);

QS_BEGIN

/// 32-bit words of an operand.
struct OperandWords {
  const void* data;
  int64_t count;
};

/// What is given for each block, or once for all; a scale that is none, or that has no zero point
/// of its format, is NaN. Scales come before zero points.
class GivenScales {
 public:
  GivenScales(const StoredCall& call, int64_t blocks, int threads)
      : call_(call), blocks_(blocks), threads_(threads) {}

  const Given* structure() const { return &given_; }

  /// False where there are neither one nor as many as blocks.
  bool set_scales(OperandWords words) {
    const StandardFloats standard;
    const bool wide = call_.scales == ScaleKind::float64;
    const int64_t n = wide ? words.count / 2 : words.count;
    if (!fits(n)) return false;
    raw_.resize(size_t(n));
    if (wide) {
      std::memcpy(raw_.data(), words.data, size_t(n) * sizeof(double));
    } else {
      const char* from = static_cast<const char*>(words.data);
      for (int64_t i = 0; i < n; ++i) {
        float scale;
        std::memcpy(&scale, from + i * int64_t(sizeof scale), sizeof scale);
        raw_[size_t(i)] = double(scale);
      }
    }
    scales_ = raw_;
    if (!powers()) {
      Layout layout{};
      layout.axes = 1;
      layout.lengths[0] = layout.extents[0] = n;
      layout.source_strides[0] = layout.target_strides[0] = 1;
      const Random none{};
      qs_quantize(&call_.scale_plan, &layout, &none, scales_.data(), scales_.data(), threads_);
    }
    for (size_t i = 0; i < size_t(n); ++i)
      scales_[i] = is_scale(raw_[i]) ? greatest_of(scales_[i], least()) : none_;
    given_.scales = scales_.data();
    given_.scale_step = n > 1;
    return true;
  }

  bool set_zero_points(OperandWords words) {
    const int64_t n = words.count;
    if (!fits(n)) return false;
    if (n > 1 && given_.scale_step == 0) {  // a scale of its own for each, which may be NaN
      scales_.assign(size_t(n), scales_[0]);
      given_.scales = scales_.data();
      given_.scale_step = 1;
    }
    points_.resize(size_t(n));
    for (int64_t i = 0; i < n; ++i) {
      int32_t point;
      std::memcpy(&point, static_cast<const char*>(words.data) + 4 * i, sizeof point);
      const bool there = point >= 0 && point <= call_.most_zero_point;
      points_[size_t(i)] = there ? point : 0;
      if (!there && n > 1) scales_[size_t(i)] = none_;
      if (!there && n == 1) scales_.assign(scales_.size(), none_);
    }
    given_.zero_points = points_.data();
    given_.zero_point_step = n > 1;
    return true;
  }

 private:
  static constexpr double none_ = std::numeric_limits<double>::quiet_NaN();

  bool fits(int64_t n) const { return n == 1 || n == blocks_; }
  bool powers() const { return is_power(call_.plan.scaling.rule); }
  double least() const { return powers() ? 0 : call_.least_scale; }

  bool is_scale(double scale) const {
    if (!(scale > 0 && scale <= std::numeric_limits<double>::max())) return false;
    if (!powers()) return true;
    uint64_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    const Number<Double> x = number_of_bits<Double>(bits);
    return x.significand == Double::hidden && x.exponent >= call_.plan.scaling.least_power &&
           x.exponent <= call_.plan.scaling.greatest_power;
  }

  const StoredCall& call_;
  int64_t blocks_;
  int threads_;
  std::vector<double> raw_, scales_;
  std::vector<int64_t> points_;
  Given given_{};
};

QS_END
