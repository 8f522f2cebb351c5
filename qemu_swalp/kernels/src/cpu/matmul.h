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
/// Of a task where sums stay in registers: vectors of columns, rows for each of them, and the terms
/// of the columns that are copied at once, for the nearest cache.
constexpr int64_t plain_vectors = 4, plain_rows = 64, plain_terms = 64;

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
        columns_(least_of(p.columns, plain_ ? plain_vectors * V::count : tile_elements)),
        rows_(plain_ ? plain_rows / ceiling(columns_, V::count)
                     : greatest_of<int64_t>(1, tile_elements / p.columns)),
        row_parts_(ceiling(p.batches * p.rows, rows_)),
        column_parts_(ceiling(p.columns, columns_)) {}

  int64_t tasks() const { return row_parts_ * column_parts_; }

  void run(int64_t task, MatmulScratch<C>& memory) const {
    const int64_t row = task / column_parts_ * rows_, column = task % column_parts_ * columns_;
    const Range rows{row, least_of(row + rows_, p_.batches * p_.rows)};
    const Range columns{column, least_of(column + columns_, p_.columns)};
    if constexpr (std::is_same_v<C, Single>) {
      if (plain_) return run_plain(rows, columns, memory);
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

  /// Up to `plain_vectors` vectors of columns, batch by batch.
  void run_plain(Range rows, Range columns, MatmulScratch<C>& memory) const {
    const bool sure = p_.plain == 2;
    for (int64_t first = rows.first, last; first < rows.last; first = last) {
      last = least_of(rows.last, (first / p_.rows + 1) * p_.rows);
      const Range own{first, last};
      switch (ceiling(columns.size(), V::count)) {
        case 1:
          sure ? sum_rows<true, 1>(own, columns, memory) : sum_rows<false, 1>(own, columns, memory);
          break;
        case 2:
          sure ? sum_rows<true, 2>(own, columns, memory) : sum_rows<false, 2>(own, columns, memory);
          break;
        case 3:
          sure ? sum_rows<true, 3>(own, columns, memory) : sum_rows<false, 3>(own, columns, memory);
          break;
        default:
          sure ? sum_rows<true, 4>(own, columns, memory) : sum_rows<false, 4>(own, columns, memory);
      }
    }
  }

  /// Rows of one batch. Some terms at a time, of one chunk, whose columns of b are copied: side by
  /// side they stay in the nearest cache and do not contend for its lines.
  template <bool sure, int vectors>
  void sum_rows(Range rows, Range columns, MatmulScratch<C>& memory) const {
    constexpr int64_t pitch = vectors * V::count;
    const int64_t batch = rows.first / p_.rows, n = rows.size() * pitch;
    const Stored* const a =
        static_cast<const Stored*>(p_.a) + p_.first_a[batch] + rows.first % p_.rows * p_.terms;
    const Stored* const b = static_cast<const Stored*>(p_.b) + p_.first_b[batch] + columns.first;
    const PlainSum sum(*p_.plans.sum), total(p_.chunk ? *p_.plans.total : *p_.plans.sum);
    const int64_t chunk = p_.chunk ? p_.chunk : p_.terms;
    memory.product.assign(size_t(plain_terms * pitch), 0);
    memory.sum.assign(size_t(n), 0);
    memory.total.assign(p_.chunk ? size_t(n) : 0, 0);
    Stored* const copied = memory.product.data();
    for (int64_t k = 0, last; k < p_.terms; k = last) {
      const int64_t end = least_of((k / chunk + 1) * chunk, p_.terms);
      last = least_of(k + plain_terms, end);
      for (int64_t i = k; i < last; ++i)
        __builtin_memcpy(copied + (i - k) * pitch, b + i * p_.columns,
                         size_t(columns.size()) * sizeof(Stored));
      add_rows<sure, vectors>(sum, rows.size(), a + k, p_.terms, copied, last - k,
                              memory.sum.data());
      if (!p_.chunk || last != end) continue;
      for (int64_t i = 0; i < n; i += V::count) {
        constexpr Whole<V::count> all;
        const Floats x = Floats(V::load(memory.total.data() + i, all)),
                     y = Floats(V::load(memory.sum.data() + i, all));
        V::store(memory.total.data() + i, sure ? total.sure(x + y) : total(x, y), all);
        V::store(memory.sum.data() + i, Vector(), all);
      }
    }
    const Stored* from = p_.chunk ? memory.total.data() : memory.sum.data();
    for (int64_t r = 0; r < rows.size(); ++r) {
      __builtin_memcpy(static_cast<Stored*>(p_.out) + (rows.first + r) * p_.columns + columns.first,
                       from + r * pitch, size_t(columns.size()) * sizeof(Stored));
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
  int64_t columns_, rows_, row_parts_, column_parts_;
};

QS_END
