// The core's own thread pool: no OpenMP, so nothing of another library's runtime is shared, and fork is safe.
#pragma once

#include <cstdint>

namespace mpl_sparse {

// The cores this process may run on, at least 1.
int cpu_count();

// Calls body(context, task) once for each task in [0, tasks), on at most num_threads threads, the caller's among them. Tasks are
// handed out one by one. Runs them all on the caller's thread while another thread is using the pool, and in a child after fork
// the pool starts anew. The first exception of a task is thrown again here, after all tasks have ended.
void parallel_for(int64_t tasks, int num_threads, void (*body)(void* context, int64_t task), void* context);

template <class Body>
void parallel_for(int64_t tasks, int num_threads, Body&& body) {
  parallel_for(tasks, num_threads, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); }, &body);
}

}  // namespace mpl_sparse
