// Calls of `qs_quantize` that programs of other libraries hold: plain bytes, which mean the same in
// every process (`kernels/stored_call.py` writes them).
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "common/layouts.h"

#define QS_EXPORT extern "C" __attribute__((visibility("default")))

QS_EXPORT void qs_quantize(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                           const qemu_swalp::Random* random, const void* source, void* target,
                           int threads);

QS_BEGIN

/// Where a stored call finds its random words.
enum class RandomKind : int32_t { none, words, counters };

/// The first bytes. After them: the plan, `pointer_count` pairs of uint64 (where in the plan a
/// pointer stands, where in the bytes what it points to), the arrays.
struct StoredCall {
  uint64_t layouts;  // fingerprint() of the structures that it was written with
  RandomKind random;
  int32_t rank;                // of the array that is rounded, without batch axes before it
  int64_t extents[most_axes];  // of blocks; 0: the whole axis
  uint64_t pointer_count;
};

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
    if (size < sizeof(StoredCall) + sizeof(Plan)) return "the call of qemu_swalp is cut off";
    if (uintptr_t(bytes) % alignof(StoredCall)) {
      copy_.resize((size + 7) / 8);
      std::memcpy(copy_.data(), bytes, size);
      bytes = copy_.data();
    }
    const char* first = static_cast<const char*>(bytes);
    stored_ = reinterpret_cast<const StoredCall*>(first);
    if (stored_->layouts != fingerprint())
      return "this program was made with another version of qemu_swalp: make it again, or install "
             "that version";
    plan_ = *reinterpret_cast<const Plan*>(first + sizeof(StoredCall));
    const char* pairs = first + sizeof(StoredCall) + sizeof(Plan);
    if (size < sizeof(StoredCall) + sizeof(Plan) + 16 * stored_->pointer_count)
      return "the call of qemu_swalp is cut off";
    for (uint64_t i = 0; i < stored_->pointer_count; ++i) {
      uint64_t pair[2];
      std::memcpy(pair, pairs + 16 * i, 16);
      if (pair[0] + sizeof(void*) > sizeof(Plan) || pair[1] >= size)
        return "the call of qemu_swalp is damaged";
      const void* array = first + pair[1];
      std::memcpy(reinterpret_cast<char*>(&plan_) + pair[0], &array, sizeof array);
    }
    return nullptr;
  }

  /// Rounds `source` to `target`, which has the axes of the batch and those of the array. `random`:
  /// as `RandomKind` says, nothing, words, or (first block, words skipped, key) and step. Axes of
  /// the batch have length 1 in an operand that is the same for all. Returns why it cannot be run;
  /// null once it has.
  const char* run(const Operand& source, const Operand& target, const Operand* random,
                  int random_count, int threads) const {
    const int64_t batch_axes = target.rank - stored_->rank;
    const int expected = stored_->random == RandomKind::none    ? 0
                         : stored_->random == RandomKind::words ? 1
                                                                : 2;
    if (random_count != expected || batch_axes < 0 || source.rank != target.rank)
      return "the operands of a call of qemu_swalp are others than it was made for";
    int64_t batches = 1, count = 1;
    for (int64_t i = 0; i < target.rank; ++i)
      (i < batch_axes ? batches : count) *= target.lengths[i];
    if (batches * count == 0) return nullptr;
    const Layout layout = layout_of(target.lengths + batch_axes);
    static constexpr int64_t item_sizes[] = {2, 2, 4, 8};
    const int64_t bytes = count * item_sizes[int(plan_.dtype)];
    for (int64_t i = 0; i < batches; ++i) {
      auto part = [&](const Operand& operand, int64_t size) {
        return static_cast<const char*>(operand.data) +
               batch(i, operand, target, batch_axes) * size;
      };
      Random drawn{};
      if (stored_->random == RandomKind::words) {
        drawn.words = reinterpret_cast<const uint32_t*>(part(random[0], 4 * count));
      } else if (stored_->random == RandomKind::counters) {
        uint32_t place[4];
        std::memcpy(place, part(random[0], sizeof place), sizeof place);
        std::memcpy(&drawn.step, part(random[1], 4), 4);
        drawn.offset = uint64_t(place[0]) * 4 + place[1];
        drawn.key[0] = place[2];
        drawn.key[1] = place[3];
        if (drawn.offset + uint64_t(count) > uint64_t(1) << 34)
          return "random bits reach 2^34 elements of an array, and this one has more";
      }
      qs_quantize(&plan_, &layout, &drawn, part(source, bytes),
                  static_cast<char*>(const_cast<void*>(target.data)) + i * bytes, threads);
    }
    return nullptr;
  }

  Dtype dtype() const { return plan_.dtype; }

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
    for (int64_t axis = stored_->rank - 1; axis >= 0; --axis) {
      const int64_t length = lengths[axis];
      const bool blocks = plan_.family == Family::block;
      int64_t extent = blocks ? stored_->extents[axis] : 0;
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

  std::vector<uint64_t> copy_;
  const StoredCall* stored_;
  Plan plan_;
};

/// Threads that a call may use: Python's own number, where it has told us.
int threads();
/// Counts a call that ran.
void count_call();

QS_END
