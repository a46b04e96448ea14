#include "aq/core/stop.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <initializer_list>

namespace aq {
namespace {

constexpr int kExitStopped = 75;
std::atomic<long> same_request_seconds = 0;
std::atomic<long> requested_at = 0;  // seconds of a clock that runs since the boot; 0: never
static_assert(std::atomic<long>::is_always_lock_free);

extern "C" void handle_stop(int) {
  std::timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const long seconds = now.tv_sec + 1;
  long before = 0;
  if (requested_at.compare_exchange_strong(before, seconds)) return;
  if (seconds - before >= same_request_seconds) _exit(kExitStopped);
}

}  // namespace

void install_stop_handlers(int seconds) {
  same_request_seconds = seconds;
  for (const int signal : {SIGUSR1, SIGTERM}) {
    struct sigaction action {};
    action.sa_handler = handle_stop;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

bool stop_requested() {
  return requested_at != 0;
}

}  // namespace aq
