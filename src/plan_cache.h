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
#include "tile_plan.h"

namespace mpl_sparse {

// Outputs start, start + step, ... along an axis, `count` of them.
struct Lattice {
  int64_t start, step, count;
};

// A convolution, forward or to the input, as correlations whose outputs interleave: one for each phase of the stride.
struct ConvPlan {
  struct Part {
    TilePlan plan;
    Lattice rows, cols;
    int64_t first_value;  // into `order`, or into the values themselves where order is empty
  };
  std::vector<Part> parts;
  std::vector<int32_t> order;  // the value of each planned nonzero; empty: the pattern's own order
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

  const TransposedPattern& transposed(const Pattern& pattern);

 private:
  using Entry = std::pair<Key, std::shared_ptr<const ConvPlan>>;
  static constexpr size_t kCapacity = 12;  // a few input sizes, forward and backward

  struct State {
    std::mutex lock;
    std::list<Entry> plans;
    std::once_flag narrowed, transposed;
    std::vector<uint16_t> narrow_columns;
    TransposedPattern transpose;
  };

  PerProcess<State> state_;
};

}  // namespace mpl_sparse
