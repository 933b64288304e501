#include "mpl_sparse/threads.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "fork.h"

namespace mpl_sparse {
namespace {

struct Job {
  Job(int64_t count, void (*function)(void*, int64_t), void* argument) : body(function), context(argument), tasks(count) {}

  void (*const body)(void*, int64_t);
  void* const context;
  const int64_t tasks;
  std::atomic<int64_t> next{0};
  std::mutex error_lock;
  std::exception_ptr error;

  void work() {
    for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
      try {
        body(context, task);
      } catch (...) {
        std::lock_guard<std::mutex> guard(error_lock);
        if (!error) error = std::current_exception();
      }
    }
  }
};

class Pool {
 public:
  // False when another thread is using the pool, or when no worker could be started: then nothing was done.
  bool run(Job& job, int helpers) {
    if (in_use_.exchange(true, std::memory_order_acquire)) return false;
    const bool started = start_workers(helpers);
    if (started) share(job, helpers);
    in_use_.store(false, std::memory_order_release);
    return started;
  }

 private:
  // False when there is no worker at all; fewer than asked for will do.
  bool start_workers(int count) noexcept {
    try {
      for (; workers_ < count; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // no more threads, or no memory for one
    }
    return workers_ > 0;
  }

  void share(Job& job, int helpers) {
    {
      std::lock_guard<std::mutex> guard(lock_);
      job_ = &job;
      places_ = helpers;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> guard(lock_);
    job_ = nullptr;  // a worker that has not woken yet finds nothing to do
    idle_.wait(guard, [this] { return active_ == 0; });
  }

  void serve() {
    std::unique_lock<std::mutex> guard(lock_);
    for (;;) {
      wake_.wait(guard, [this] { return job_ && places_ > 0; });
      Job& job = *job_;
      --places_;
      ++active_;
      guard.unlock();
      job.work();
      guard.lock();
      if (--active_ == 0) idle_.notify_one();
    }
  }

  std::atomic<bool> in_use_{false};  // not a mutex: a task may call parallel_for, on the thread that holds the pool
  std::mutex lock_;
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;
  int places_ = 0;  // how many more workers may join the job
  int active_ = 0;  // how many are at it
  int workers_ = 0;
};

// The team that was lent, and the process it was lent to: after fork its threads are gone, though it would still wait for them.
std::atomic<Team> lent_team{nullptr};
std::atomic<uint64_t> lent_to{0};

// Threads at work for all callers of the team, who each bring a team of their own.
struct Busy {
  std::atomic<int64_t> threads{0};
};

// False when other callers leave too few cores: then nothing was done.
bool run_on(Team team, Job& job, int num_threads) {
  static const int cores = cpu_count();
  static PerProcess<Busy>& busy = *new PerProcess<Busy>;  // never destroyed: threads may work while the process exits
  std::atomic<int64_t>& threads = busy.get().threads;
  const int64_t others = threads.fetch_add(num_threads, std::memory_order_relaxed);
  const bool free = others == 0 || others + num_threads <= cores;
  // All the threads it has, even for fewer tasks: a team of another size ends threads that its owner must start again.
  if (free) team([](void* data) { static_cast<Job*>(data)->work(); }, &job, static_cast<unsigned>(num_threads), 0);
  threads.fetch_sub(num_threads, std::memory_order_relaxed);
  return free;
}

Pool& current_pool() {
  static PerProcess<Pool>& pool = *new PerProcess<Pool>;  // never destroyed: its threads may still wait while the process exits
  return pool.get();
}

}  // namespace

int cpu_count() {
#ifdef __linux__
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0) return CPU_COUNT(&allowed);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

void set_team(Team team) {
  lent_to.store(fork_generation());
  lent_team.store(team);
}

Team team() { return lent_to.load() == fork_generation() ? lent_team.load() : nullptr; }

void parallel_for(int64_t tasks, int num_threads, void (*body)(void* context, int64_t task), void* context) {
  const int64_t helpers = (tasks < num_threads ? tasks : num_threads) - 1;
  Job job(tasks, body, context);
  if (helpers <= 0) {
    job.work();
  } else if (const Team lent = team()) {
    if (!run_on(lent, job, num_threads)) job.work();
  } else if (!current_pool().run(job, static_cast<int>(helpers))) {
    job.work();
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace mpl_sparse
