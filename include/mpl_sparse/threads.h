// How the core shares out its work: over a thread pool of its own, or over a team of threads that the process has anyway.
//
// The core links no OpenMP. But where another library computes with it, that library's threads keep spinning after each of its
// operations, and a second pool would wait for the cores they hold. There the core is lent that very team.
#pragma once

#include <cstdint>

namespace mpl_sparse {

// The cores this process may run on, at least 1.
int cpu_count();

// Runs work(data) on the caller's thread and on up to num_threads - 1 others, and returns when all have ended. This is
// GOMP_parallel of libgomp, whose flags are 0 here.
using Team = void (*)(void (*work)(void* data), void* data, unsigned num_threads, unsigned flags);

// Lets parallel_for use this team from now on, in this process but not in its children of fork; null: the pool.
void set_team(Team team);

// The team in use here, null for the pool.
Team team();

// Calls body(context, task) once for each task in [0, tasks), on at most num_threads threads, the caller's among them. Tasks are
// handed out one by one. Runs them all on the caller's thread while the threads of other callers leave no cores for as many
// more, and wherever no other thread can be had. In a child after fork the pool starts anew. The first exception of a task is
// thrown again here, after all tasks have ended.
void parallel_for(int64_t tasks, int num_threads, void (*body)(void* context, int64_t task), void* context);

template <class Body>
void parallel_for(int64_t tasks, int num_threads, Body&& body) {
  parallel_for(tasks, num_threads, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); }, &body);
}

}  // namespace mpl_sparse
