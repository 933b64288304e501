// Strided arrays in memory of exactly their own extent, in every memory format that a caller may hand in, and random patterns.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "mpl_sparse/pattern.h"
#include "mpl_sparse/tensor.h"

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random);
}

inline bool chance(Random& random, double probability) { return std::bernoulli_distribution(probability)(random); }

enum class Layout { contiguous, channels_last, scattered };  // scattered: any order of axes, gaps, negative strides

template <class Scalar, int rank>
struct Array {
  using Index = std::array<int64_t, rank>;

  Index size{}, stride{};
  std::vector<Scalar> memory;
  int64_t origin = 0;

  Array(Index sizes, Layout layout, Random& random) : size(sizes) {
    std::array<int, rank> inner_first;  // axes from the one with the closest elements outwards
    for (int i = 0; i < rank; ++i) inner_first[i] = rank - 1 - i;
    if (layout == Layout::channels_last && rank > 2) {
      std::rotate(inner_first.begin(), inner_first.end() - 2, inner_first.end() - 1);
    }
    const bool scattered = layout == Layout::scattered;
    if (scattered) std::shuffle(inner_first.begin(), inner_first.end(), random);
    int64_t extent = 1;
    for (int axis : inner_first) {
      const int64_t step = extent + (scattered ? pick(random, 0, 2) : 0);
      const bool backwards = scattered && chance(random, 0.3);
      stride[axis] = backwards ? -step : step;
      const int64_t reach = step * std::max<int64_t>(0, size[axis] - 1);
      if (backwards) origin += reach;
      extent = scattered ? extent + reach : step * std::max<int64_t>(1, size[axis]);
    }
    memory.assign(count() ? extent : 0, kUntouched);
  }

  int64_t count() const { return std::accumulate(size.begin(), size.end(), int64_t{1}, std::multiplies<int64_t>()); }

  Scalar& at(const Index& index) {
    int64_t place = origin;
    for (int axis = 0; axis < rank; ++axis) place += index[axis] * stride[axis];
    return memory.at(place);
  }
  Scalar at(const Index& index) const { return const_cast<Array*>(this)->at(index); }

  // Calls visit(index) for every element, row-major.
  template <class Visit>
  void each(Visit visit) const {
    if (count() == 0) return;
    Index index{};
    for (;;) {
      visit(index);
      int axis = rank - 1;
      while (axis >= 0 && ++index[axis] == size[axis]) index[axis--] = 0;
      if (axis < 0) return;
    }
  }

  void fill(Random& random) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    each([&](const Index& index) { at(index) = static_cast<Scalar>(uniform(random)); });
  }

  // The elements in row-major order.
  std::vector<Scalar> values() const {
    std::vector<Scalar> all;
    each([&](const Index& index) { all.push_back(at(index)); });
    return all;
  }

  // Whether everything between the elements is as it was before the first write.
  bool gaps_untouched() const {
    return static_cast<int64_t>(std::count_if(memory.begin(), memory.end(), [](Scalar x) { return x != kUntouched; })) <= count();
  }

  template <class View>
  View view() {
    View result;
    result.data = memory.empty() ? nullptr : memory.data() + origin;
    set(result.size, size);
    set(result.stride, stride);
    return result;
  }

 private:
  static constexpr Scalar kUntouched = 12345;
  static void set(int64_t& to, const Index& from) { to = from[0]; }
  static void set(int64_t* to, const Index& from) { std::copy(from.begin(), from.end(), to); }
};

template <class Scalar>
mpl_sparse::Images<const Scalar> images_in(Array<Scalar, 4>& a) {
  return a.template view<mpl_sparse::Images<const Scalar>>();
}
template <class Scalar>
mpl_sparse::Images<Scalar> images_out(Array<Scalar, 4>& a) {
  return a.template view<mpl_sparse::Images<Scalar>>();
}
template <class Scalar>
mpl_sparse::Matrix<const Scalar> matrix_in(Array<Scalar, 2>& a) {
  return a.template view<mpl_sparse::Matrix<const Scalar>>();
}
template <class Scalar>
mpl_sparse::Matrix<Scalar> matrix_out(Array<Scalar, 2>& a) {
  return a.template view<mpl_sparse::Matrix<Scalar>>();
}
template <class Scalar>
mpl_sparse::Vector<const Scalar> vector_in(Array<Scalar, 1>& a) {
  return a.template view<mpl_sparse::Vector<const Scalar>>();
}
template <class Scalar>
mpl_sparse::Vector<Scalar> vector_out(Array<Scalar, 1>& a) {
  return a.template view<mpl_sparse::Vector<Scalar>>();
}

inline std::shared_ptr<const mpl_sparse::Pattern> make_pattern(int64_t cols, const std::vector<int32_t>& row_ptr,
                                                               const std::vector<int32_t>& col_idx) {
  const int64_t entries = static_cast<int64_t>(row_ptr.size());
  return mpl_sparse::Pattern::from_csr(entries - 1, cols, row_ptr.data(), entries, col_idx.data(),
                                       static_cast<int64_t>(col_idx.size()));
}

// Every position is taken with the probability `density`; some rows stay empty unless it is 1.
inline std::shared_ptr<const mpl_sparse::Pattern> random_pattern(int64_t rows, int64_t cols, double density, Random& random) {
  std::vector<int32_t> row_ptr{0}, col_idx;
  for (int64_t row = 0; row < rows; ++row) {
    const bool empty = density < 1 && chance(random, 0.1);
    if (!empty && density >= 0.05) {
      for (int64_t col = 0; col < cols; ++col) {
        if (chance(random, density)) col_idx.push_back(static_cast<int32_t>(col));
      }
    } else if (!empty && density > 0) {  // by gaps: no visit to each of a giant kernel's positions
      std::geometric_distribution<int64_t> gap(density);
      for (int64_t col = gap(random); col < cols; col += 1 + gap(random)) col_idx.push_back(static_cast<int32_t>(col));
    }
    row_ptr.push_back(static_cast<int32_t>(col_idx.size()));
  }
  return make_pattern(cols, row_ptr, col_idx);
}
