// Calls of `qs_quantize` that programs of other libraries hold: plain bytes, which mean the same in
// every process (`kernels/stored_call.py` writes them).
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/stored_scales.h"

QS_BEGIN

constexpr int most_others = 4;  // operands beside the array

/// Which operand stands where: axes in C order, without gaps.
struct Operand {
  const void* data;
  int64_t rank;
  const int64_t* lengths;
};

/// The bytes, checked, and copied where they are not aligned.
class Call {
 public:
  /// Why it cannot be run; null if it can.
  const char* read(const void* bytes, size_t size) {
    if (size < sizeof(StoredCall)) return "the call of qemu_swalp is cut off";
    if (uintptr_t(bytes) % alignof(StoredCall)) {
      copy_.resize((size + 7) / 8);
      std::memcpy(copy_.data(), bytes, size);
      bytes = copy_.data();
    }
    const char* first = static_cast<const char*>(bytes);
    std::memcpy(&stored_, first, sizeof stored_);
    if (stored_.layouts != fingerprint())
      return "this program was made with another version of qemu_swalp: make it again, or install "
             "that version";
    const char* pairs = first + sizeof(StoredCall);
    if (stored_.pointer_count > (size - sizeof(StoredCall)) / 16)
      return "the call of qemu_swalp is cut off";
    for (uint64_t i = 0; i < stored_.pointer_count; ++i) {
      uint64_t pair[2];
      std::memcpy(pair, pairs + 16 * i, 16);
      if (pair[0] > sizeof(StoredCall) - sizeof(void*) || pair[1] >= size)
        return "the call of qemu_swalp is damaged";
      const void* array = first + pair[1];
      std::memcpy(reinterpret_cast<char*>(&stored_) + pair[0], &array, sizeof array);
    }
    return nullptr;
  }

  /// Rounds `source` to `target`, which have the axes of the batch and those of the array.
  /// `others`, which may have 1 in place of an axis of the batch: what `RandomKind` says, words, or
  /// (first block, words skipped, key) and step; then the scales that are given, and their zero
  /// points. Returns why it cannot be run; null once it has.
  const char* run(const Operand& source, const Operand& target, const Operand* others, int count,
                  int threads) const {
    constexpr const char* misfit =
        "the operands of a call of qemu_swalp are others than it was made for";
    const int64_t batch_axes = target.rank - stored_.rank;
    const int random_count = int(stored_.random);
    if (count != random_count + int(has_scales()) + int(has_zero_points()) || batch_axes < 0 ||
        source.rank != target.rank)
      return misfit;
    int64_t batches = 1, elements = 1;
    for (int64_t i = 0; i < target.rank; ++i)
      (i < batch_axes ? batches : elements) *= target.lengths[i];
    if (batches * elements == 0) return nullptr;
    const Layout layout = layout_of(target.lengths + batch_axes);
    static constexpr int64_t item_sizes[] = {2, 2, 4, 8};
    const int64_t bytes = elements * item_sizes[int(stored_.plan.dtype)];
    const Operand* scales = others + random_count;
    GivenScales given(stored_, blocks_of(target.lengths + batch_axes), threads);
    for (int64_t i = 0; i < batches; ++i) {
      auto part = [&](const Operand& operand, int64_t size) {
        return static_cast<const char*>(operand.data) +
               batch(i, operand, target, batch_axes) * size;
      };
      Random drawn{};
      if (stored_.random == RandomKind::words) {
        drawn.words = reinterpret_cast<const uint32_t*>(part(others[0], 4 * elements));
      } else if (stored_.random == RandomKind::counters) {
        uint32_t place[4];
        std::memcpy(place, part(others[0], sizeof place), sizeof place);
        std::memcpy(&drawn.step, part(others[1], 4), 4);
        drawn.offset = uint64_t(place[0]) * 4 + place[1];
        drawn.key[0] = place[2];
        drawn.key[1] = place[3];
        if (drawn.offset + uint64_t(elements) > uint64_t(1) << 34)
          return "random bits reach 2^34 elements of an array, and this one has more";
      }
      auto words = [&](const Operand& operand) {
        int64_t n = 1;
        for (int64_t axis = batch_axes; axis < operand.rank; ++axis) n *= operand.lengths[axis];
        return OperandWords{part(operand, 4 * n), n};
      };
      if (has_scales() && !given.set_scales(words(scales[0]))) return misfit;
      if (has_zero_points() && !given.set_zero_points(words(scales[1]))) return misfit;
      const void* from = part(source, bytes);
      void* to = static_cast<char*>(const_cast<void*>(target.data)) + i * bytes;
      if (has_scales()) {
        qs_quantize_given(&stored_.plan, &layout, &drawn, given.structure(), from, to, threads);
      } else {
        qs_quantize(&stored_.plan, &layout, &drawn, from, to, threads);
      }
    }
    return nullptr;
  }

  Dtype dtype() const { return stored_.plan.dtype; }

 private:
  /// Index in an operand's own batch of batch `i` of the target.
  static int64_t batch(int64_t i, const Operand& operand, const Operand& target, int64_t axes) {
    int64_t index = 0, step = 1;
    for (int64_t axis = axes - 1; axis >= 0; --axis) {
      const int64_t place = i % target.lengths[axis];
      i /= target.lengths[axis];
      if (operand.lengths[axis] != 1) index += place * step;
      step *= operand.lengths[axis];
    }
    return index;
  }

  /// The layout of an array of these lengths in the fewest axes, as `strides.layout_of` makes it
  /// where both arrays are in C order.
  Layout layout_of(const int64_t* lengths) const {
    int64_t merged[most_axes][2];  // length, extent; the last axis first
    int32_t axes = 0;
    for (int64_t axis = stored_.rank - 1; axis >= 0; --axis) {
      const int64_t length = lengths[axis];
      const bool blocks = stored_.plan.family == Family::block;
      int64_t extent = blocks ? stored_.extents[axis] : 0;
      if (extent == 0 || extent > length) extent = length;
      int64_t* inner = axes ? merged[axes - 1] : nullptr;
      if (inner && length == 1) continue;
      if (inner && inner[0] == 1) {
        inner[0] = length, inner[1] = extent;
      } else if (inner && inner[1] == inner[0]) {
        inner[1] *= extent, inner[0] *= length;
      } else if (inner && extent == 1 && inner[0] % inner[1] == 0) {
        inner[0] *= length;
      } else {
        merged[axes][0] = length, merged[axes][1] = extent;
        ++axes;
      }
    }
    if (axes == 0) merged[axes][0] = merged[axes][1] = 1, axes = 1;
    Layout layout{};
    layout.axes = axes;
    int64_t stride = 1;
    for (int32_t i = 0; i < axes; ++i) {
      const int32_t at = axes - 1 - i;
      layout.lengths[at] = merged[i][0], layout.extents[at] = merged[i][1];
      layout.source_strides[at] = layout.target_strides[at] = stride;
      stride *= merged[i][0];
    }
    return layout;
  }

  bool has_scales() const { return stored_.scales != ScaleKind::none; }
  bool has_zero_points() const { return stored_.most_zero_point >= 0; }

  /// How many blocks an array of these lengths has.
  int64_t blocks_of(const int64_t* lengths) const {
    int64_t blocks = 1;
    for (int64_t axis = 0; axis < stored_.rank; ++axis) {
      const int64_t extent = stored_.extents[axis];
      if (extent) blocks *= ceiling(lengths[axis], extent);
    }
    return blocks;
  }

  std::vector<uint64_t> copy_;
  StoredCall stored_;
};

/// Threads that a call may use: Python's own number, where it has told us.
int threads();
/// Counts a call that ran.
void count_call();

QS_END
