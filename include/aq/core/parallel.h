#pragma once
/// Threads of one rank: independent pieces of work, one thread a piece.

#include <functional>

#include "aq/core/index.h"

namespace aq {

/// Threads that parallel_for uses from now on (at least 1).
void set_thread_count(int threads);
int thread_count();

/// Calls body(i) for i in [0, count), each once, on up to thread_count() threads, in no fixed order
/// and the first indices first. A body must not depend on which thread runs it. Nested calls run on
/// the calling thread. The first exception that a body throws is thrown here after all have ended.
void parallel_for(Index count, const std::function<void(Index)>& body);

/// Whether the caller is the body of a parallel_for on several threads.
bool in_parallel_for();

}  // namespace aq
