// Working memory of a thread that quantizes: what it derives from the scales of blocks.
#pragma once
#include <vector>

#include "cpu/scaled_rows.h"

QS_BEGIN

/// Scales of consecutive columns under blocks narrower than a vector: one field of `Constants`
/// after the other, by column.
template <class C>
struct ColumnConstants {
  using V = Vectors<C>;
  using Word = typename C::Word;
  static constexpr int fields = 11;
  std::vector<Word> at;
  int64_t columns = 0;
  bool saturating = true;
  Constants<C> shared;

  void set(int64_t n) {
    columns = n;
    saturating = true;
    at.resize(size_t(n) * fields);
  }
  void put(int64_t column, const Constants<C>& s) {
    const Word all[fields] = {s.breakpoint,
                              s.ulp_exponent,
                              s.tiny,
                              s.least,
                              s.bound,
                              s.negative_bound,
                              s.above,
                              s.below,
                              s.positive_infinity,
                              s.negative_infinity,
                              s.zero};
    for (int i = 0; i < fields; ++i) at[size_t(i * columns + column)] = all[i];
    shared = s;
  }
  template <class N>
  Constants<C, typename V::V> get(int64_t column, N n) const {
    auto field = [&](int i) { return V::load_words(&at[size_t(i * columns + column)], n); };
    return {field(0),          field(1),
            field(2),          field(3),
            field(4),          field(5),
            field(6),          field(7),
            field(8),          field(9),
            field(10),         shared.normal,
            shared.sign,       shared.negative_zero,
            shared.random_mask};
  }
};

/// `Constants` by the power of the scale, each made when it is first met: blocks share few powers.
template <class C>
class ConstantsByPower {
 public:
  struct Entry {
    int power;
    Shape shape, finite_shape;
    Constants<C> constants;

    Shape shape_for(bool special) const { return special ? shape : finite_shape; }
  };

  const Entry& get(const Element& f, int power) {
    if (of_ != &f) {
      of_ = &f;
      entries_.assign(count, Entry{none, Shape::any, Shape::any, {}});
    }
    Entry& entry = entries_[unsigned(power) % count];
    if (entry.power != power) {
      entry = {power, shape_of<C>(f, power, true), shape_of<C>(f, power, false),
               constants_of<C>(f, power)};
    }
    return entry;
  }

 private:
  static constexpr unsigned count = 256;
  static constexpr int none = 1 << 30;
  const Element* of_ = nullptr;
  std::vector<Entry> entries_;
};

/// Working memory of a thread.
template <class C>
struct Scratch {
  WordBuffer words;
  std::vector<Extremes<C>> extremes;
  std::vector<typename C::Word> amax, most;
  std::vector<Scale<C>> scales;
  ConstantsByPower<C> by_power;
  ColumnConstants<C> columns;
};

QS_END
