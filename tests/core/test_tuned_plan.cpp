// Plans that are tried in turn: which one is kept, what starts a trial anew, and that the bits are those of the first choice.
#include <chrono>
#include <thread>

#include "arrays.h"
#include "check.h"
#include "correlate.h"
#include "dispatch.h"
#include "forced.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/tuning.h"
#include "tuned_plan.h"

using namespace mpl_sparse;

namespace {

// Plans that are told apart by their rows.
TunedPlan plans(int count) {
  std::vector<TilePlan> all(count);
  for (int i = 0; i < count; ++i) all[i].rows = i;
  return TunedPlan(std::move(all));
}

// A clock that only work moves on, for each thread.
struct FakeClock {
  static thread_local double seconds;
  static std::chrono::duration<double> now() { return std::chrono::duration<double>(seconds); }
};
thread_local double FakeClock::seconds = 0;

// Runs it once, taking `seconds[rows]`; which plan it was.
int64_t use(const TunedPlan& tuned, const CallSize& size, const std::vector<double>& seconds) {
  int64_t used = -1;
  tuned.run<FakeClock>(size, [&](const TilePlan& plan) {
    used = plan.rows;
    FakeClock::seconds += seconds[static_cast<size_t>(plan.rows)];
  });
  return used;
}

void keeps_the_fastest() {
  const TunedPlan tuned = plans(3);
  const std::vector<double> seconds{4, 1, 3};
  for (int turn = 0; turn < 3 * TunedPlan::kTurnsEach; ++turn) {
    CHECK_EQ(tuned.plans(), size_t{3});
    CHECK_EQ(use(tuned, {100, 1}, seconds), turn % 3);
  }
  CHECK_EQ(tuned.plans(), size_t{1});
  for (int turn = 0; turn < 5; ++turn) CHECK_EQ(use(tuned, {100, 1}, seconds), 1);
  CHECK_EQ(use(tuned, {7, 2}, seconds), 1);
}

void compares_calls_of_one_size() {
  const TunedPlan tuned = plans(2);
  const std::vector<double> seconds{3, 1};
  for (int turn = 0; turn < 20; ++turn) {  // sizes that alternate decide nothing
    CHECK_EQ(use(tuned, {100 + turn % 2, 1}, seconds), 0);
    CHECK_EQ(tuned.plans(), size_t{2});
  }
  for (int turn = 0; turn < 2 * TunedPlan::kTurnsEach; ++turn) use(tuned, {100, 2}, seconds);
  CHECK_EQ(use(tuned, {100, 2}, seconds), 1);
}

void a_failure_is_no_measurement() {
  const TunedPlan tuned = plans(2);
  for (int turn = 0; turn < 10; ++turn) {
    CHECK_THROWS(std::runtime_error, "body", tuned.run({1, 1}, [](const TilePlan&) { throw std::runtime_error("body"); }));
  }
  CHECK_EQ(tuned.plans(), size_t{2});
}

void from_several_threads() {
  const TunedPlan tuned = plans(4);
  const std::vector<double> seconds{3, 2, 4, 3};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 50; ++turn) CHECK(use(tuned, {1, 1}, seconds) >= 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(tuned.plans(), size_t{1});
  CHECK_EQ(use(tuned, {1, 1}, seconds), 1);
}

void a_little_faster_is_not_faster() {
  const TunedPlan tuned = plans(2);
  for (int turn = 0; turn < 2 * TunedPlan::kTurnsEach; ++turn) use(tuned, {1, 1}, {1, 0.99});
  CHECK_EQ(use(tuned, {1, 1}, {1, 1}), 0);
}

// A convolution with one group, and memory for it.
template <class Scalar>
struct Problem {
  Correlation c;
  Extents extents;
  std::shared_ptr<const Pattern> pattern;
  Array<Scalar, 1> values;
  Array<Scalar, 4> source;

  // `reach`: the most that a tap may reach beyond the source.
  Problem(int64_t reach, Random& random)
      : extents{pick(random, 1, 3), pick(random, 1, 30), pick(random, 1, 70)},
        values({0}, Layout::contiguous, random),
        source({0, 0, 0, 0}, Layout::contiguous, random) {
    c.rows_per_group = pick(random, 1, 40);
    c.channels_per_group = pick(random, 1, 40);
    const int64_t taps = pick(random, 1, 4), step = pick(random, 1, 2), apart = 1 + pick(random, 0, reach) / taps;
    c.row_step = c.col_step = step;
    for (int64_t k = 0; k < taps; ++k) {
      c.row_offsets.push_back((k - taps / 2) * apart);
      c.col_offsets.push_back((k - taps / 2) * apart);
    }
    c.source_rows = std::max<int64_t>(1, extents.rows * step - pick(random, 0, reach));
    c.source_cols = std::max<int64_t>(1, extents.cols * step - pick(random, 0, reach));
    pattern = random_pattern(c.rows(), c.channels_per_group * c.taps(), 0.3, random);
    values = Array<Scalar, 1>({pattern->nnz()}, Layout::contiguous, random);
    source = Array<Scalar, 4>({extents.images, c.channels_per_group, c.source_rows, c.source_cols}, Layout::contiguous, random);
    values.fill(random);
    source.fill(random);
  }

  std::vector<TileChoice> choices() const {
    return tile_choices(c, pattern->nnz(), extents, unit_of(kernels<Scalar>()), Use::accumulate);
  }

  std::vector<Scalar> outputs(const TileChoice& choice, Random& random) const {
    Array<Scalar, 4> out({extents.images, c.rows(), extents.rows, extents.cols}, Layout::contiguous, random);
    const TilePlan plan = build_tile_plan(c, pattern->row_ptr(), pattern->col_idx(), unit_of(kernels<Scalar>()), choice);
    correlate<Scalar>(kernels<Scalar>(), plan, extents,
                      {{source.memory.data(), source.stride[0], source.stride[1], source.stride[2], source.stride[3]},
                       c.source_rows,
                       c.source_cols},
                      values.memory.data(), nullptr, 0,
                      {out.memory.data(), out.stride[0], out.stride[1], out.stride[2], out.stride[3]}, 1);
    return out.memory;
  }
};

// Every tile that may be tried gives the bits of the first, on every backend and also where a tile reaches past the outputs.
template <class Scalar>
void alike_choices_give_the_same_bits() {
  Random random(7);
  int compared = 0;
  for (int round = 0; round < 60; ++round) {
    const Problem<Scalar> problem(3, random);
    std::vector<TileChoice> choices = problem.choices();
    keep_alike(choices);
    const std::vector<Scalar> first = problem.outputs(choices.front(), random);
    for (const TileChoice& choice : choices) CHECK(problem.outputs(choice, random) == first);
    compared += static_cast<int>(choices.size());
  }
  if (kernels<Scalar>().max_vectors > 2 * kInOrderVectors - 1) CHECK(compared > 60);
}

// Whole numbers have the same sum in any order: no choice may differ, also where most of what a tap reads is padding.
template <class Scalar>
void all_choices_agree() {
  Random random(9);
  for (int round = 0; round < 60; ++round) {
    Problem<Scalar> problem(round % 2 ? 3 : 40, random);
    for (Scalar& value : problem.values.memory) value = static_cast<Scalar>(pick(random, -3, 3));
    for (Scalar& value : problem.source.memory) value = static_cast<Scalar>(pick(random, -3, 3));
    const std::vector<TileChoice> choices = problem.choices();
    const std::vector<Scalar> first = problem.outputs(choices.front(), random);
    for (const TileChoice& choice : choices) CHECK(problem.outputs(choice, random) == first);
  }
}

// What a caller sees while a layer is tuned, and without: the same bits.
void calls_do_not_show_it() {
  Random random(8);
  Conv2dGeometry g;
  g.batch = 2;
  g.in_channels = g.out_channels = 24;
  g.in_height = g.in_width = 33;
  g.kernel_height = g.kernel_width = 3;
  g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = 1;
  Array<float, 4> input({2, 24, 33, 33}, Layout::contiguous, random), expected({2, 24, 33, 33}, Layout::contiguous, random);
  input.fill(random);
  Random weights(9);
  const auto pattern = random_pattern(24, 24 * 9, 0.3, weights);
  Array<float, 1> values({pattern->nnz()}, Layout::contiguous, random);
  values.fill(random);
  CHECK(tuning());
  set_tuning(false);
  CHECK(!tuning());
  conv2d_forward<float>(*pattern, g, vector_in(values), images_in(input), {}, images_out(expected), 1);
  set_tuning(true);
  Random again(9);
  const auto tuned = random_pattern(24, 24 * 9, 0.3, again);
  for (int call = 0; call < 20; ++call) {
    Array<float, 4> output({2, 24, 33, 33}, Layout::contiguous, random);
    conv2d_forward<float>(*tuned, g, vector_in(values), images_in(input), {}, images_out(output), 1);
    CHECK(output.memory == expected.memory);
  }
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  keeps_the_fastest();
  compares_calls_of_one_size();
  a_failure_is_no_measurement();
  from_several_threads();
  a_little_faster_is_not_faster();
  alike_choices_give_the_same_bits<float>();
  alike_choices_give_the_same_bits<double>();
  all_choices_agree<float>();
  all_choices_agree<double>();
  calls_do_not_show_it();
  return checks::result();
}
