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
template <class Scalar>
std::vector<Scalar> layer(const Pattern& pattern, const Conv2dGeometry& g) {
  Random random(51);
  Array<Scalar, 1> values({pattern.nnz()}, Layout::contiguous, random), grad_values = values;
  Array<Scalar, 4> input({g.batch, g.in_channels, g.in_height, g.in_width}, Layout::contiguous, random), grad_input = input;
  Array<Scalar, 4> output({g.batch, g.out_channels, g.out_height(), g.out_width()}, Layout::contiguous, random);
  Array<Scalar, 4> grad_output = output;
  values.fill(random);
  input.fill(random);
  grad_output.fill(random);
  conv2d_forward<Scalar>(pattern, g, vector_in(values), images_in(input), {}, images_out(output), 2);
  conv2d_grad_input<Scalar>(pattern, g, vector_in(values), images_in(grad_output), images_out(grad_input), 2);
  conv2d_grad_weight<Scalar>(pattern, g, images_in(input), images_in(grad_output), vector_out(grad_values), 2);
  std::vector<Scalar> all = output.memory;
  all.insert(all.end(), grad_input.memory.begin(), grad_input.memory.end());
  all.insert(all.end(), grad_values.memory.begin(), grad_values.memory.end());
  return all;
}

std::shared_ptr<const Pattern> make() {
  Random random(52);
  return random_pattern(12, 72, 0.4, random);
}

Conv2dGeometry base() {  // 8 x 9 columns
  Conv2dGeometry g;
  g.batch = 2;
  g.in_channels = 8;
  g.out_channels = 12;
  g.in_height = g.in_width = 9;
  g.kernel_height = g.kernel_width = 3;
  return g;
}

// A plan serves its own geometry only: whatever else differs, results are those of a pattern that has seen nothing before.
void every_size_counts() {
  std::vector<Conv2dGeometry> others;
  for (int64_t Conv2dGeometry::* size :
       {&Conv2dGeometry::batch, &Conv2dGeometry::in_height, &Conv2dGeometry::in_width, &Conv2dGeometry::stride_height,
        &Conv2dGeometry::stride_width, &Conv2dGeometry::pad_top, &Conv2dGeometry::pad_bottom, &Conv2dGeometry::pad_left,
        &Conv2dGeometry::pad_right, &Conv2dGeometry::dilation_height, &Conv2dGeometry::dilation_width}) {
    others.push_back(base());
    ++(others.back().*size);
  }
  others.push_back(base());
  others.back().kernel_height = 9;
  others.back().kernel_width = 1;
  others.push_back(others.back());
  std::swap(others.back().kernel_height, others.back().kernel_width);
  others.push_back(base());  // one channel of 6 x 12 taps
  others.back().in_channels = 1;
  others.back().kernel_height = 6;
  others.back().kernel_width = 12;
  others.back().in_width = 12;
  others.push_back(base());
  others.back().in_channels *= 2;
  others.back().groups = 2;
  for (Conv2dGeometry g : {base(), others[1]}) {  // pointwise: rows of pixels, joined or not
    g.in_channels = 72;
    g.kernel_height = g.kernel_width = 1;
    others.push_back(g);
    g.stride_height = 2;
    others.push_back(g);
    g.in_height = 1;
    others.push_back(g);
  }
  for (const Conv2dGeometry& g : others) {
    const auto used = make();
    const std::vector<float> first = layer<float>(*used, base());
    CHECK(layer<float>(*used, g) == layer<float>(*make(), g));
    CHECK(layer<double>(*used, g) == layer<double>(*make(), g));
    CHECK(layer<float>(*used, base()) == first);
  }
  // And its own backend: another one's vectors have another length.
  const std::string before = backend();
  const auto used = make();
  layer<float>(*used, base());
  for (const std::string& name : backends()) {
    set_backend(name);
    CHECK(layer<float>(*used, base()) == layer<float>(*make(), base()));
  }
  set_backend(before);
}

void one_pattern_from_several_threads() {
  std::vector<Conv2dGeometry> geometries;  // forward and backward: more than the cache holds
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < 18; ++i) {
    Conv2dGeometry g = base();
    g.batch = 1 + i % 3;
    g.in_height = g.in_width = 5 + i % 9;
    g.stride_height = g.stride_width = 1 + i / 9;
    g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = 1;
    geometries.push_back(g);
    expected.push_back(layer<float>(*make(), g));
  }
  const auto shared = make();
  std::atomic<int> wrong{0};
  on_threads(3, [&](int thread) {
    for (int step = 0; step < 90; ++step) {
      const int i = (step * (thread + 1) + thread) % 18;
      wrong += layer<float>(*shared, geometries[i]) != expected[i];
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
  every_size_counts();
  one_pattern_from_several_threads();
  single_samples_from_several_threads();
  return checks::result();
}
