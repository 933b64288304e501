// Several plans for the same sums, of which the fastest is found by use.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "tile_plan.h"

namespace mpl_sparse {

// What a call's time depends on beside the plan: only calls that are alike are compared.
struct CallSize {
  int64_t outputs;  // of all images
  int num_threads;
  bool operator==(const CallSize& other) const { return outputs == other.outputs && num_threads == other.num_threads; }
};

class TunedPlan {
 public:
  // At least one plan, the likeliest first.
  explicit TunedPlan(std::vector<TilePlan> plans);

  // Calls body(plan) once. While there are several plans, calls of one size take turns among them and are timed; after
  // kTurnsEach of each the fastest is kept and the others are dropped. Calls of another size start that anew.
  template <class Clock = std::chrono::steady_clock, class Body>
  void run(const CallSize& size, Body body) const {
    if (const TilePlan* plan = trial_->chosen.load(std::memory_order_acquire)) return body(*plan);
    const Turn turn = next_turn(size);
    const auto start = Clock::now();
    body(*turn.plan);
    finish(turn, std::chrono::duration<double>(Clock::now() - start).count());
  }

  // How many plans are still in question.
  size_t plans() const;

  static constexpr int kTurnsEach = 3;

 private:
  struct Entrant {
    std::shared_ptr<const TilePlan> plan;
    int turns;       // finished ones
    double fastest;  // seconds
  };

  struct Trial {
    std::mutex lock;
    std::vector<Entrant> entrants;
    CallSize size{-1, 0};
    int64_t started = 0;  // turns, at this size
    int64_t round = 0;    // how often the size has changed
    std::atomic<const TilePlan*> chosen{nullptr};
  };

  struct Turn {
    std::shared_ptr<const TilePlan> plan;
    size_t entrant;
    int64_t round;
  };

  Turn next_turn(const CallSize& size) const;
  void finish(const Turn& turn, double seconds) const;

  std::unique_ptr<Trial> trial_;
};

}  // namespace mpl_sparse
