// The plans of one pattern, the most recently used ones. A plan is built once for a key, whichever thread asks first.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "fork.h"
#include "mpl_sparse/pattern.h"
#include "tuned_plan.h"

namespace mpl_sparse {

// Outputs start, start + step, ... along an axis, `count` of them.
struct Lattice {
  int64_t start, step, count;
};

// A convolution, forward or to the input, as correlations whose outputs interleave: one for each phase of the stride.
struct ConvPlan {
  struct Part {
    TunedPlan plan;
    Lattice rows, cols;
    int64_t first_value;  // into `order`, or into the values themselves where order is empty
  };
  std::vector<Part> parts;
  std::vector<int32_t> order;  // the value of each planned nonzero; empty: the pattern's own order
};

// One bit a column, set where the row has a nonzero: bit c % 8 of a row's byte c / 8. Rows are whole multiples of 64 columns.
struct PatternBits {
  int64_t row_bytes;
  std::vector<uint8_t> bits;
};

class PlanCache {
 public:
  using Key = std::array<int64_t, 20>;

  template <class Build>
  std::shared_ptr<const ConvPlan> get(const Key& key, Build build) {
    State& state = state_.get();
    std::lock_guard<std::mutex> guard(state.lock);
    std::list<Entry>& plans = state.plans;
    const auto found = std::find_if(plans.begin(), plans.end(), [&](const Entry& entry) { return entry.first == key; });
    if (found != plans.end()) {
      plans.splice(plans.begin(), plans, found);
      return found->second;
    }
    plans.emplace_front(key, std::make_shared<const ConvPlan>(build()));
    if (plans.size() > kCapacity) plans.pop_back();
    return plans.front().second;
  }

  // The columns in 16 bits, for patterns of at most 65536 columns.
  const std::vector<uint16_t>& narrow_columns(const Pattern& pattern) {
    State& state = state_.get();
    std::call_once(state.narrowed, [&] { state.narrow_columns.assign(pattern.col_idx(), pattern.col_idx() + pattern.nnz()); });
    return state.narrow_columns;
  }

  // The columns as bits. O(rows * cols / 8 + nnz): for dense patterns.
  const PatternBits& column_bits(const Pattern& pattern) {
    State& state = state_.get();
    std::call_once(state.as_bits, [&] {
      PatternBits made{(pattern.cols() + 63) / 64 * 8, {}};
      made.bits.resize(static_cast<size_t>(pattern.rows() * made.row_bytes));
      for (int64_t row = 0; row < pattern.rows(); ++row) {
        uint8_t* bits = made.bits.data() + row * made.row_bytes;
        for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
          const int32_t col = pattern.col_idx()[k];
          bits[col / 8] = static_cast<uint8_t>(bits[col / 8] | 1 << col % 8);
        }
      }
      state.column_bits = std::move(made);
    });
    return state.column_bits;
  }

  const TransposedPattern& transposed(const Pattern& pattern);

 private:
  using Entry = std::pair<Key, std::shared_ptr<const ConvPlan>>;
  static constexpr size_t kCapacity = 12;  // a few input sizes, forward and backward

  struct State {
    std::mutex lock;
    std::list<Entry> plans;
    std::once_flag narrowed, as_bits, transposed;
    std::vector<uint16_t> narrow_columns;
    PatternBits column_bits;
    TransposedPattern transpose;
  };

  PerProcess<State> state_;
};

}  // namespace mpl_sparse
