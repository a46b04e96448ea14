#include "aq/core/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace aq {
namespace {

std::atomic<int> configured_threads{1};

}  // namespace

void set_thread_count(int threads) {
  configured_threads = std::max(1, threads);
}
int thread_count() {
  return configured_threads;
}

void parallel_for(Index count, const std::function<void(Index)>& body) {
  const int threads = static_cast<int>(std::min<Index>(thread_count(), count));
  if (threads <= 1 || in_parallel_for()) {
    for (Index i = 0; i < count; ++i) body(i);
    return;
  }
  std::exception_ptr first_error;
  std::mutex error_mutex;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index i = 0; i < count; ++i) {
    if (failed) continue;
    try {
      body(i);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
      failed = true;
    }
  }
  if (first_error) std::rethrow_exception(first_error);
}

bool in_parallel_for() {
  return omp_in_parallel() != 0;
}

}  // namespace aq
