// Matrix products with every partial sum rounded, on a CPU.
//
// A task is a tile of the result: so many rows, or a part of one, consecutive in C order, which
// stay in the cache while all terms are added to them.
#pragma once
#include <optional>

#include "common/accumulation.h"
#include "cpu/job.h"
#include "cpu/plain_sums.h"

QS_BEGIN

constexpr int64_t tile_elements = piece;
/// Of a task where sums stay in registers; so many columns of all terms stay in the second cache.
constexpr int64_t plain_rows = 32, plain_vectors = 4;

template <class C>
struct FloatVector;
template <>
struct FloatVector<Single> {
  using Type = Floats;
};
template <>
struct FloatVector<Double> {
  typedef double Type __attribute__((vector_size(vector_bytes)));
};

/// A thread's tile.
template <class C>
struct MatmulScratch {
  Scratch<C> scratch;
  std::vector<typename C::Stored> product, sum, total;
  std::vector<const typename C::Stored*> a,
      b;  // for each row of the tile: the row of a, the columns of b
};

/// Rounds a tile in place, again and again.
template <class C>
class TileRounder {
 public:
  TileRounder(const Matmul& p, const Plan* plan, Part part, int64_t first,
              std::vector<typename C::Stored>& tile)
      : p_(p),
        plan_(*plan),
        part_(part),
        random_(p.random),
        layout_{1, {int64_t(tile.size())}, {1}, {1}, {1}},
        job_(plan_, layout_, random_, tile.data(), tile.data()) {
    random_.offset += uint64_t(first);
  }
  TileRounder(const TileRounder&) = delete;

  void operator()(Scratch<C>& scratch) {
    if (is_stochastic(plan_.mode)) {
      turn_to(random_, p_, part_, count_++);
      job_.draw(random_);
    }
    for (int64_t task = 0; task < job_.tasks(); ++task) job_.run(task, scratch);
  }

 private:
  const Matmul& p_;
  const Plan& plan_;
  Part part_;
  Random random_;
  Layout layout_;
  Job<C> job_;
  uint32_t count_ = 0;
};

/// Tiles of the result, and the work on one.
template <class C>
class MatmulJob {
 public:
  using Stored = typename C::Stored;

  explicit MatmulJob(const Matmul& p)
      : p_(p),
        plain_(std::is_same_v<C, Single> && p.plain && PlainSum::fits(p.plans.sum) &&
               PlainSum::fits(p.plans.total)),
        rows_(plain_ ? plain_rows : greatest_of<int64_t>(1, tile_elements / p.columns)),
        columns_(least_of(p.columns, plain_ ? plain_vectors * V::count : tile_elements)),
        row_parts_(ceiling(p.batches * p.rows, rows_)),
        column_parts_(ceiling(p.columns, columns_)) {}

  int64_t tasks() const { return row_parts_ * column_parts_; }

  void run(int64_t task, MatmulScratch<C>& memory) const {
    const int64_t row = task / column_parts_ * rows_, column = task % column_parts_ * columns_;
    const Range rows{row, least_of(row + rows_, p_.batches * p_.rows)};
    const Range columns{column, least_of(column + columns_, p_.columns)};
    if constexpr (std::is_same_v<C, Single>) {
      if (plain_) return run_plain(rows, columns, memory.product);
    }
    const int64_t first = rows.first * p_.columns + columns.first, width = columns.size(),
                  n = rows.size() * width;
    memory.a.clear();
    memory.b.clear();
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const int64_t batch = r / p_.rows;
      memory.a.push_back(static_cast<const Stored*>(p_.a) + p_.first_a[batch] +
                         r % p_.rows * p_.terms);
      memory.b.push_back(static_cast<const Stored*>(p_.b) + p_.first_b[batch] + columns.first);
    }
    memory.product.resize(size_t(n));
    memory.sum.assign(size_t(n), 0);
    memory.total.assign(p_.chunk ? size_t(n) : 0, 0);
    Stored* const sum = memory.sum.data();
    std::optional<TileRounder<C>> round_product, round_sum, round_total;
    if (p_.plans.product)
      round_product.emplace(p_, p_.plans.product, Part::product, first, memory.product);
    round_sum.emplace(p_, p_.plans.sum, Part::sum, first, memory.sum);
    if (p_.chunk) round_total.emplace(p_, p_.plans.total, Part::total, first, memory.total);
    const int64_t chunk = p_.chunk ? p_.chunk : p_.terms;
    for (int64_t k = 0, in_chunk = 0; k < p_.terms; ++k) {
      if (round_product) {
        for (size_t r = 0; r < memory.a.size(); ++r) {
          multiply(memory.a[r][k], memory.b[r] + k * p_.columns,
                   memory.product.data() + int64_t(r) * width, width);
        }
        (*round_product)(memory.scratch);
        add_tile(sum, memory.product.data(), n);
      } else {
        for (size_t r = 0; r < memory.a.size(); ++r) {
          multiply_add(memory.a[r][k], memory.b[r] + k * p_.columns, sum + int64_t(r) * width,
                       width);
        }
      }
      ++in_chunk;
      const bool ends = in_chunk == chunk || k + 1 == p_.terms;
      if (ends || in_chunk % p_.group == 0) (*round_sum)(memory.scratch);
      if (!ends || !p_.chunk) continue;
      add_tile(memory.total.data(), sum, n);
      (*round_total)(memory.scratch);
      memory.sum.assign(size_t(n), 0);
      in_chunk = 0;
    }
    const Stored* from = p_.chunk ? memory.total.data() : sum;
    __builtin_memcpy(static_cast<Stored*>(p_.out) + first, from, size_t(n) * sizeof(Stored));
  }

 private:
  using V = Vectors<C>;
  using Vector = typename V::V;
  using Float = typename FloatVector<C>::Type;

  /// Up to `plain_vectors` vectors of columns. Those of b are copied: side by side they do not
  /// contend for the same lines of the cache.
  void run_plain(Range rows, Range columns, std::vector<Stored>& copied) const {
    const PlainSum sum(*p_.plans.sum);
    const std::optional<PlainSum> total =
        p_.chunk ? std::optional<PlainSum>(*p_.plans.total) : std::nullopt;
    const int64_t chunk = p_.chunk ? p_.chunk : p_.terms, width = columns.size();
    copied.resize(size_t(p_.terms * width));
    for (int64_t r = rows.first; r < rows.last; ++r) {
      const int64_t batch = r / p_.rows;
      if (r == rows.first || r % p_.rows == 0) {
        const Stored* b = static_cast<const Stored*>(p_.b) + p_.first_b[batch] + columns.first;
        for (int64_t k = 0; k < p_.terms; ++k) {
          __builtin_memcpy(copied.data() + k * width, b + k * p_.columns,
                           size_t(width) * sizeof(Stored));
        }
      }
      const Stored* a =
          static_cast<const Stored*>(p_.a) + p_.first_a[batch] + r % p_.rows * p_.terms;
      Stored* out = static_cast<Stored*>(p_.out) + r * p_.columns + columns.first;
      auto sums = [&](auto vectors, int64_t i, auto lanes) {
        plain_sums<decltype(vectors)::value>(sum, total ? &*total : nullptr, a, copied.data() + i,
                                             width, p_.terms, chunk, out + i, lanes);
      };
      if (width == plain_vectors * V::count) {
        sums(std::integral_constant<int, plain_vectors>(), 0, Whole<V::count>());
        continue;
      }
      in_vectors<V::count>(
          width, [&](int64_t i, auto lanes) { sums(std::integral_constant<int, 1>(), i, lanes); });
    }
  }

  QS_INLINE static Float times(Stored a, Vector b) { return Float(Vector() + a) * Float(b); }

  static void multiply(Stored a, const Stored* b, Stored* to, int64_t n) {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      V::store(to + i, Vector(times(a, V::load(b + i, count))), count);
    });
  }

  static void multiply_add(Stored a, const Stored* b, Stored* sum, int64_t n) {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      const Float product = times(a, V::load(b + i, count));
      V::store(sum + i, odd_sum<C, Vector>(Float(V::load(sum + i, count)), product), count);
    });
  }

  static void add_tile(Stored* to, const Stored* from, int64_t n) {
    in_vectors<V::count>(n, [&](int64_t i, auto count) {
      V::store(to + i,
               odd_sum<C, Vector>(Float(V::load(to + i, count)), Float(V::load(from + i, count))),
               count);
    });
  }

  const Matmul& p_;
  bool plain_;  // whether sums stay in registers
  int64_t rows_, columns_, row_parts_, column_parts_;
};

QS_END
