// parallel_for, on the pool and on a lent team: every task once, exceptions, nested and concurrent callers, fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "arrays.h"
#include "check.h"
#include "forced.h"
#include "mpl_sparse/matmul.h"
#include "mpl_sparse/threads.h"

using mpl_sparse::parallel_for;

namespace {

// How often each task ran, and on how many threads.
size_t run(int64_t tasks, int num_threads) {
  std::vector<std::atomic<int>> ran(static_cast<size_t>(std::max<int64_t>(0, tasks)));
  std::mutex lock;
  std::set<std::thread::id> threads;
  parallel_for(tasks, num_threads, [&](int64_t task) {
    ++ran.at(task);
    std::lock_guard<std::mutex> guard(lock);
    threads.insert(std::this_thread::get_id());
  });
  for (const auto& count : ran) CHECK_EQ(count.load(), 1);
  return threads.size();
}

void every_task_once() {
  for (int64_t tasks : {-1, 0, 1, 2, 3, 100, 5000}) {
    for (int num_threads : {-3, 0, 1, 2, 4, 33}) CHECK(run(tasks, num_threads) <= static_cast<size_t>(std::max(1, num_threads)));
  }
  CHECK(mpl_sparse::cpu_count() >= 1);
  // Threads there really are: two tasks that wait for each other both end.
  std::atomic<int> met{0};
  parallel_for(2, 2, [&](int64_t) {
    ++met;
    while (met < 2) std::this_thread::yield();
  });
  CHECK_EQ(met.load(), 2);
}

void exceptions() {
  for (int num_threads : {1, 2, 4}) {
    std::atomic<int> ran{0};
    CHECK_THROWS(std::runtime_error, "task 7", parallel_for(50, num_threads, [&](int64_t task) {
                   ++ran;
                   if (task == 7) throw std::runtime_error("task 7");
                 }));
    CHECK_EQ(ran.load(), 50);
    CHECK_THROWS(std::runtime_error, "all", parallel_for(50, num_threads, [&](int64_t) { throw std::runtime_error("all"); }));
    run(20, num_threads);  // the pool is as good as new
  }
}

void nested() {
  std::atomic<int> ran{0};
  parallel_for(8, 3, [&](int64_t) { parallel_for(8, 3, [&](int64_t) { parallel_for(2, 2, [&](int64_t) { ++ran; }); }); });
  CHECK_EQ(ran.load(), 128);
  CHECK_THROWS(std::runtime_error, "inner",
               parallel_for(4, 2, [&](int64_t) { parallel_for(4, 2, [&](int64_t) { throw std::runtime_error("inner"); }); }));
}

void concurrent_callers() {
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 200; ++round) {
        std::atomic<int64_t> sum{0};
        parallel_for(20, 1 + (caller + round) % 4, [&](int64_t task) { sum += task; });
        total += sum == 190;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(total.load(), 800);
}

std::atomic<int> team_calls{0};
std::atomic<unsigned> team_size{0};  // as asked for; a team may bring fewer
unsigned team_limit = 1000;

void team_of_threads(void (*work)(void*), void* data, unsigned num_threads, unsigned flags) {
  CHECK_EQ(flags, 0u);
  ++team_calls;
  team_size = num_threads;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < std::min(num_threads, team_limit); ++i) others.emplace_back([=] { work(data); });
  work(data);
  for (std::thread& other : others) other.join();
}

void a_lent_team() {
  CHECK(mpl_sparse::team() == nullptr);
  mpl_sparse::set_team(team_of_threads);
  CHECK(mpl_sparse::team() == team_of_threads);
  for (unsigned limit : {1000u, 1u, 2u}) {  // as inside another parallel region, or under OMP_THREAD_LIMIT
    team_limit = limit;
    run(1, 4);
    run(100, 1);
    run(0, 4);
    CHECK_EQ(team_calls.load(), 0);  // nothing to share out
    run(2, 4);
    CHECK_EQ(team_calls.exchange(0), 1);
    CHECK_EQ(team_size.load(), 4u);  // whole, though there are but two tasks
    if (limit != 1) {
      std::atomic<int> met{0};
      parallel_for(2, 2, [&](int64_t) {
        ++met;
        while (met < 2) std::this_thread::yield();
      });
      CHECK_EQ(met.load(), 2);
    }
    exceptions();
    nested();
    concurrent_callers();
    team_calls = 0;
  }
  team_limit = 1000;

  // A caller who finds every core at work computes alone.
  const int cores = mpl_sparse::cpu_count();
  parallel_for(2, std::max(2, cores), [&](int64_t task) {
    if (task == 0) CHECK_EQ(run(50, std::max(2, cores)), 1u);
  });
  CHECK_EQ(team_calls.exchange(0), 1);
  run(2, 4);
  CHECK_EQ(team_calls.exchange(0), 1);  // and one who comes later does not

  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    checks::failures = 0;
    CHECK(mpl_sparse::team() == nullptr);
    run(100, 4);
    CHECK_EQ(team_calls.load(), 0);
    mpl_sparse::set_team(team_of_threads);  // lent to the child itself
    run(100, 4);
    CHECK_EQ(team_calls.load(), 1);
    _exit(checks::failures ? 1 : 0);
  }
  int status = -1;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(mpl_sparse::team() == team_of_threads);
  mpl_sparse::set_team(nullptr);
  run(2, 4);
  CHECK_EQ(team_calls.load(), 0);
}

// A layer large enough to use threads; returns its output.
std::vector<float> layer() {
  Random random(41);
  const auto pattern = random_pattern(300, 400, 0.6, random);
  Array<float, 1> values({pattern->nnz()}, Layout::contiguous, random);
  Array<float, 2> input({40, 400}, Layout::contiguous, random), output({40, 300}, Layout::contiguous, random);
  values.fill(random);
  input.fill(random);
  mpl_sparse::linear_forward<float>(*pattern, vector_in(values), matrix_in(input), {}, matrix_out(output), 4);
  return output.values();
}

void fork_and_go_on() {
  const std::vector<float> expected = layer();
  for (int round = 0; round < 5; ++round) {
    CHECK(run(100, 4) >= 1);  // the pool's threads exist, and stay behind in the parent
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);  // a child that hangs is ended by its own clock
      checks::failures = 0;
      every_task_once();
      exceptions();
      CHECK(layer() == expected);
      _exit(checks::failures ? 1 : 0);
    }
    CHECK(child > 0);
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(layer() == expected);
  }
  // From inside a task: the caller holds the pool while the child is made.
  std::atomic<int> good{0};
  parallel_for(3, 3, [&](int64_t task) {
    if (task != 0) return;
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      std::atomic<int> ran{0};
      parallel_for(10, 3, [&](int64_t) { ++ran; });
      _exit(ran == 10 ? 0 : 1);
    }
    int status = -1;
    good += waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  });
  CHECK_EQ(good.load(), 1);
}

}  // namespace

int main() {
  skip_unless_backend_runs();
  every_task_once();
  exceptions();
  nested();
  concurrent_callers();
  a_lent_team();
  fork_and_go_on();
  return checks::result();
}
