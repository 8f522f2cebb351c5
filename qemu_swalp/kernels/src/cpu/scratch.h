// Working memory of a thread that quantizes: what it derives from the scales of blocks.
#pragma once
#include <vector>

#include "cpu/quick_rows.h"
#include "cpu/table_rows.h"

QS_BEGIN

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

/// Extremes and scales of consecutive blocks, or of consecutive columns where blocks are narrower
/// than a vector: one array for each number.
template <class C>
struct Units {
  using Words = std::vector<typename C::Word>;
  Words amax, low, most;        // as in `Extremes`; the greatest magnitude
  Words scale, extra, inverse;  // as in `ScaleRun`; powers of two as signed words
  int64_t count = 0;            // of scales
  bool infinities;              // whether any element may be infinite
  bool inverted = false;        // whether `inverse` is that of `scale`

  void clear(int64_t n) {
    resize_extremes(n);
    for (Words* words : {&amax, &low, &most})
      __builtin_memset(words->data(), 0, size_t(n) * sizeof((*words)[0]));
  }
  void resize_extremes(int64_t n) {
    for (Words* words : {&amax, &low, &most}) grow(*words, n);
  }
  void resize_scales(int64_t n) {
    for (Words* words : {&scale, &extra, &inverse}) grow(*words, n);
    count = n;
    inverted = false;
  }
  /// All scales so many times, one after the other, and what else there is of them.
  void repeat_scales(int64_t times, bool extras, bool inverses) {
    if (times == 1) return;
    const int64_t n = count;
    const bool known = inverted;
    resize_scales(n * times + Vectors<C>::count);
    inverted = known;
    count = n * times;
    repeat(scale.data(), n);
    if (extras) repeat(extra.data(), n);
    if (inverses) repeat(inverse.data(), n);
  }
  /// The inverses of the scales, unless they are there.
  void invert_scales() {
    if (!inverted) invert_scales(count);
    inverted = true;
  }
  /// Of the first n.
  void invert_scales(int64_t n) {
    using V = Vectors<C>;
    in_vectors<V::count>(n, [&](int64_t i, auto lanes) QS_INLINE_LAMBDA {
      const auto own = V::load_words(&scale[size_t(i)], lanes);
      V::store_words(&inverse[size_t(i)], quick_inverse<C>(own), lanes);
    });
  }
  Extremes<C> extremes(int64_t i) const {
    return {amax[size_t(i)], low[size_t(i)], special_of<C>(most[size_t(i)])};
  }

 private:
  /// The first n words again and again. Vectors reach beyond them, and beyond the last: the next
  /// ones put that right.
  void repeat(typename C::Word* words, int64_t n) const {
    using V = Vectors<C>;
    constexpr Whole<V::count> all;
    if (n <= V::count) {
      const auto first = V::load_words(words, all);
      for (int64_t i = n; i < count; i += n) V::store_words(words + i, first, all);
      return;
    }
    for (int64_t filled = n; filled < count; filled *= 2) {
      for (int64_t i = 0; i < least_of(filled, count - filled); i += V::count)
        V::store_words(words + filled + i, V::load_words(words + i, all), all);
    }
  }
  /// Never less: arrays of changing sizes would be filled anew each time.
  static void grow(Words& words, int64_t n) {
    if (int64_t(words.size()) < n) words.resize(size_t(n));
  }
};

template <class C>
QS_INLINE void fill(typename C::Word* to, typename C::Word value, int64_t n) {
  using V = Vectors<C>;
  in_vectors<V::count>(n, [&](int64_t i, auto count) QS_INLINE_LAMBDA {
    V::store_words(to + i, typename V::V() + value, count);
  });
}

/// What a search for scales needs: of blocks side by side, or of columns.
template <class C>
struct Search {
  std::vector<Scale<C>> scales;  // of the least error so far
  typename Units<C>::Words scale, extra;
  std::vector<uint64_t> least, loss;
  std::vector<int> unit;  // errors are counted in units of 2^unit
  typename C::Stored trial[piece];
};

/// Working memory of a thread.
template <class C>
struct Scratch {
  WordBuffer words;
  Units<C> units;
  typename C::Word scale[piece], extra[piece], inverse[piece];  // of the columns of a piece
  std::vector<Scale<C>> scales;
  std::vector<typename C::Word> special;  // as in `Extremes`, of blocks side by side
  ConstantsByPower<C> by_power;
  Search<C> search;
};

QS_END
