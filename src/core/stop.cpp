#include "aq/core/stop.h"

#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace aq {
namespace {

volatile std::sig_atomic_t requested = 0;
constexpr int kExitStopped = 75;

extern "C" void handle_stop(int) {
  if (requested != 0) _exit(kExitStopped);
  requested = 1;
}

}  // namespace

void install_stop_handlers() {
  for (const int signal : {SIGUSR1, SIGTERM}) {
    struct sigaction action {};
    action.sa_handler = handle_stop;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

bool stop_requested() {
  return requested != 0;
}

}  // namespace aq
