// Hadamard transforms along an axis on a CPU (clause OPS-4); the C++ of `ops/hadamard.py`.
#pragma once
#include "common/float_arithmetic.h"
#include "cpu/scratch.h"
#include "cpu/tasks.h"

QS_BEGIN

/// A contiguous array of (outer, length, inner) numbers that is transformed along `length`, in
/// blocks of `size`; a rest in blocks of powers of two. signs: `length` numbers to be multiplied by
/// first, or null.
struct HadamardCall {
  int64_t outer, length, inner, size;
  const void *signs, *source;
  void* target;
};

/// Sums and differences of elements h apart, for h = 1, 2, 4, …: the additions of Sylvester's order
/// by perfect shuffles, whose halves have turned back once all are made.
template <class C>
class HadamardJob {
 public:
  using V = Vectors<C>;
  using Word = typename C::Word;
  using Vector = typename V::V;
  using Reals = FloatsOf<C>;
  using Buffer = std::vector<Vector>;

  explicit HadamardJob(const HadamardCall& call)
      : call_(call),
        source_(static_cast<const Word*>(call.source)),
        target_(static_cast<Word*>(call.target)),
        signs_(static_cast<const Word*>(call.signs)),
        strips_(ceiling(call.inner, V::count)) {
    for (int stage = 0; stage < stages; ++stage) {
      for (int i = 0; i < V::count; ++i) {
        other_[stage][i] = Word(i ^ (1 << stage));
        minus_[stage][i] = i >> stage & 1 ? C::sign : 0;
      }
    }
    const int64_t rows = call.inner == 1 ? call.outer : call.outer * strips_;
    const int64_t elements = call.length * (call.inner == 1 ? 1 : V::count);
    together_ = greatest_of<int64_t>(1, task_elements / elements);
    rows_ = rows;
  }

  int64_t tasks() const { return ceiling(rows_, together_); }

  void run(int64_t task, Buffer& buffer) const {
    for (int64_t i = task * together_; i < least_of((task + 1) * together_, rows_); ++i) {
      int64_t first = 0, blocks = call_.length / call_.size;
      for (int64_t size = call_.size; first < call_.length; size /= 2) {
        if (size < call_.size) blocks = (call_.length - first) / size;
        for (int64_t end = first + blocks * size; first < end;) {
          if (call_.inner > 1) {
            column(i / strips_, i % strips_ * V::count, first, size, buffer);
            first += size;
          } else if (size <= V::count) {
            short_blocks(i * call_.length, first, end - first, size);
            first = end;
          } else {
            long_block(i * call_.length, first, size, buffer);
            first += size;
          }
        }
      }
    }
  }

 private:
  static constexpr int stages = V::count == 16 ? 4 : V::count == 8 ? 3 : V::count == 4 ? 2 : 1;

  QS_INLINE Vector within(Vector x, int64_t size) const {
    for (int stage = 0; (1 << stage) < size && stage < stages; ++stage) {
      const Vector moved = turned<Vector>(x, other_[stage]);
      x = Vector(Reals(moved) + Reals(x ^ minus_[stage]));
    }
    return x;
  }
  static Vector scaled(Vector x, int64_t size) {
    if (size == 1) return x;
    const auto factor = typename FloatOf<Word>::Type(1 / __builtin_sqrt(double(size)));
    return Vector(Reals(x) * factor);
  }
  template <class N>
  QS_INLINE Vector signed_row(int64_t row, int64_t first, N count) const {
    const Vector x = V::load_words(source_ + row + first, count);
    if (!signs_) return x;
    return Vector(Reals(x) * Reals(V::load_words(signs_ + first, count)));
  }

  /// Blocks side by side, no longer than a vector.
  void short_blocks(int64_t row, int64_t first, int64_t n, int64_t size) const {
    in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
      const Vector x = within(signed_row(row, first + i, count), size);
      V::store_words(target_ + row + first + i, scaled(x, size), count);
    });
  }
  void long_block(int64_t row, int64_t first, int64_t size, Buffer& buffer) const {
    const int64_t n = size / V::count;
    buffer.resize(size_t(n));
    for (int64_t i = 0; i < n; ++i)
      buffer[size_t(i)] = within(signed_row(row, first + i * V::count, Whole<V::count>()), size);
    between(buffer.data(), n);
    for (int64_t i = 0; i < n; ++i) {
      V::store_words(target_ + row + first + i * V::count, scaled(buffer[size_t(i)], size),
                     Whole<V::count>());
    }
  }
  /// A block along an axis that is not the last, of a vector of columns.
  void column(int64_t outer, int64_t column, int64_t first, int64_t size, Buffer& buffer) const {
    const int64_t begin = (outer * call_.length + first) * call_.inner + column;
    buffer.resize(size_t(size));
    in_vectors<V::count>(least_of<int64_t>(V::count, call_.inner - column), [&](int64_t,
                                                                                auto count) {
      for (int64_t i = 0; i < size; ++i) {
        Vector x = V::load_words(source_ + begin + i * call_.inner, count);
        if (signs_) x = Vector(Reals(x) * Reals(Vector() + signs_[first + i]));
        buffer[size_t(i)] = x;
      }
      between(buffer.data(), size);
      for (int64_t i = 0; i < size; ++i)
        V::store_words(target_ + begin + i * call_.inner, scaled(buffer[size_t(i)], size), count);
    });
  }
  /// The stages between vectors.
  static void between(Vector* x, int64_t n) {
    for (int64_t h = 1; h < n; h *= 2) {
      for (int64_t i = 0; i < n; i += 2 * h) {
        for (int64_t j = i; j < i + h; ++j) {
          const Reals a = Reals(x[j]), b = Reals(x[j + h]);
          x[j] = Vector(a + b);
          x[j + h] = Vector(a - b);
        }
      }
    }
  }

  const HadamardCall& call_;
  const Word* source_;
  Word* target_;
  const Word* signs_;
  int64_t strips_, rows_, together_;
  Vector other_[stages], minus_[stages];
};

QS_END
