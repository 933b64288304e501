#include "tuned_plan.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>

#include "mpl_sparse/tuning.h"

namespace mpl_sparse {
namespace {

constexpr double kNoise = 0.97;  // what is not faster by more than this is not taken for faster

std::atomic<bool>& tuning_switch() {
  static std::atomic<bool> on{[] {
    const char* set = std::getenv("MPL_SPARSE_TUNING");
    return !set || std::string(set) != "0";
  }()};
  return on;
}

}  // namespace

bool tuning() { return tuning_switch().load(std::memory_order_relaxed); }

void set_tuning(bool on) { tuning_switch().store(on, std::memory_order_relaxed); }

TunedPlan::TunedPlan(std::vector<TilePlan> plans) : trial_(std::make_unique<Trial>()) {
  for (TilePlan& plan : plans) {
    trial_->entrants.push_back({std::make_shared<const TilePlan>(std::move(plan)), 0, std::numeric_limits<double>::infinity()});
  }
  if (trial_->entrants.size() == 1) trial_->chosen.store(trial_->entrants.front().plan.get());
}

size_t TunedPlan::plans() const {
  std::lock_guard<std::mutex> guard(trial_->lock);
  return trial_->entrants.size();
}

TunedPlan::Turn TunedPlan::next_turn(const CallSize& size) const {
  std::lock_guard<std::mutex> guard(trial_->lock);
  std::vector<Entrant>& entrants = trial_->entrants;
  if (!(trial_->size == size)) {
    trial_->size = size;
    trial_->started = 0;
    ++trial_->round;
    for (Entrant& entrant : entrants) entrant = {entrant.plan, 0, std::numeric_limits<double>::infinity()};
  }
  const size_t entrant = static_cast<size_t>(trial_->started++) % entrants.size();
  return {entrants[entrant].plan, entrant, trial_->round};
}

void TunedPlan::finish(const Turn& turn, double seconds) const {
  std::lock_guard<std::mutex> guard(trial_->lock);
  std::vector<Entrant>& entrants = trial_->entrants;
  if (turn.round != trial_->round || trial_->chosen.load(std::memory_order_relaxed)) return;
  Entrant& own = entrants[turn.entrant];
  own.fastest = std::min(own.fastest, seconds);
  ++own.turns;
  if (std::any_of(entrants.begin(), entrants.end(), [](const Entrant& each) { return each.turns < kTurnsEach; })) return;
  auto best = std::min_element(entrants.begin(), entrants.end(),
                               [](const Entrant& a, const Entrant& b) { return a.fastest < b.fastest; });
  if (best->fastest >= kNoise * entrants.front().fastest) best = entrants.begin();
  entrants = {*best};  // a call that still computes with another holds it
  trial_->chosen.store(entrants.front().plan.get(), std::memory_order_release);
}

}  // namespace mpl_sparse
