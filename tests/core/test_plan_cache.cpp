// The plan cache: one plan for a key whichever thread asks first, the least recently used one dropped. Then whole layers of one
// pattern from several threads.
#include <atomic>
#include <thread>

#include "arrays.h"
#include "check.h"
#include "forced.h"
#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/matmul.h"
#include "plan_cache.h"

using namespace mpl_sparse;

namespace {

PlanCache::Key key(int64_t number) {
  PlanCache::Key result{};
  result.back() = number;
  return result;
}

template <class Work>
void on_threads(int count, Work work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&work, i] { work(i); });
  for (std::thread& thread : threads) thread.join();
}

void keeps_the_recent() {
  PlanCache cache;
  int built = 0;
  const auto get = [&](int64_t number) {
    return cache.get(key(number), [&] {
      ++built;
      return ConvPlan{};
    });
  };
  const auto first = get(0);
  CHECK(get(0) == first);
  CHECK_EQ(built, 1);
  for (int64_t number = 1; number <= 11; ++number) get(number);
  CHECK(get(0) == first);  // used again: now 1 is the oldest
  CHECK_EQ(built, 12);
  get(12);
  CHECK(get(0) == first);
  CHECK_EQ(built, 13);
  get(1);
  CHECK_EQ(built, 14);
  for (int64_t number = 20; number < 40; ++number) get(number);
  CHECK_EQ(first.use_count(), 1);  // dropped by the cache, alive as long as a kernel holds it
}

void a_failed_build_leaves_nothing() {
  PlanCache cache;
  CHECK_THROWS(std::runtime_error, "build", cache.get(key(0), []() -> ConvPlan { throw std::runtime_error("build"); }));
  bool built = false;
  cache.get(key(0), [&] {
    built = true;
    return ConvPlan{};
  });
  CHECK(built);
}

void one_build_for_all_threads() {
  for (int round = 0; round < 50; ++round) {
    PlanCache cache;
    std::atomic<int> built{0};
    std::shared_ptr<const ConvPlan> plans[4];
    on_threads(4, [&](int i) {
      plans[i] = cache.get(key(7), [&] {
        ++built;
        return ConvPlan{};
      });
    });
    CHECK_EQ(built.load(), 1);
    CHECK(plans[0] == plans[1] && plans[0] == plans[2] && plans[0] == plans[3]);
  }
}

// Forward, gradient to the input and at the nonzeros of one pattern; all results in a row.
std::vector<float> layer(const Pattern& pattern, int64_t batch, int64_t size, int64_t stride) {
  Random random(51);
  Conv2dGeometry g;
  g.batch = batch;
  g.in_channels = 8;
  g.out_channels = 12;
  g.kernel_height = g.kernel_width = 3;
  g.in_height = g.in_width = size;
  g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = 1;
  g.stride_height = g.stride_width = stride;
  Array<float, 1> values({pattern.nnz()}, Layout::contiguous, random), grad_values = values;
  Array<float, 4> input({batch, 8, size, size}, Layout::contiguous, random), grad_input = input;
  Array<float, 4> output({batch, 12, g.out_height(), g.out_width()}, Layout::contiguous, random), grad_output = output;
  values.fill(random);
  input.fill(random);
  grad_output.fill(random);
  conv2d_forward<float>(pattern, g, vector_in(values), images_in(input), {}, images_out(output), 2);
  conv2d_grad_input<float>(pattern, g, vector_in(values), images_in(grad_output), images_out(grad_input), 2);
  conv2d_grad_weight<float>(pattern, g, images_in(input), images_in(grad_output), vector_out(grad_values), 2);
  std::vector<float> all = output.memory;
  all.insert(all.end(), grad_input.memory.begin(), grad_input.memory.end());
  all.insert(all.end(), grad_values.memory.begin(), grad_values.memory.end());
  return all;
}

void one_pattern_from_several_threads() {
  const auto make = [] {
    Random random(52);
    return random_pattern(12, 72, 0.4, random);
  };
  std::vector<std::vector<float>> expected;
  const auto size_of = [](int i) { return 5 + i % 9; };  // 18 geometries, forward and backward: more than the cache holds
  for (int i = 0; i < 18; ++i) expected.push_back(layer(*make(), 1 + i % 3, size_of(i), 1 + i / 9));
  const auto shared = make();
  std::atomic<int> wrong{0};
  on_threads(3, [&](int thread) {
    for (int step = 0; step < 90; ++step) {
      const int i = (step * (thread + 1) + thread) % 18;
      wrong += layer(*shared, 1 + i % 3, size_of(i), 1 + i / 9) != expected[i];
    }
  });
  CHECK_EQ(wrong.load(), 0);
}

// What is built once beside the plans: the transpose and the 16-bit columns of single samples.
void single_samples_from_several_threads() {
  Random random(53);
  for (int round = 0; round < 20; ++round) {
    const auto pattern = random_pattern(40, 50, 0.5, random);
    Array<double, 1> values({pattern->nnz()}, Layout::contiguous, random);
    Array<double, 2> input({1, 50}, Layout::contiguous, random), grad_output({1, 40}, Layout::contiguous, random);
    values.fill(random);
    input.fill(random);
    grad_output.fill(random);
    std::vector<double> results[3];
    on_threads(3, [&](int i) {
      Random own(i);
      Array<double, 2> output({1, 40}, Layout::contiguous, own), grad_input({1, 50}, Layout::contiguous, own);
      linear_forward<double>(*pattern, vector_in(values), matrix_in(input), {}, matrix_out(output), 2);
      linear_grad_input<double>(*pattern, vector_in(values), matrix_in(grad_output), matrix_out(grad_input), 2);
      results[i] = output.memory;
      results[i].insert(results[i].end(), grad_input.memory.begin(), grad_input.memory.end());
    });
    CHECK(results[0] == results[1] && results[0] == results[2]);
  }
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  keeps_the_recent();
  a_failed_build_leaves_nothing();
  one_build_for_all_threads();
  one_pattern_from_several_threads();
  single_samples_from_several_threads();
  return checks::result();
}
