/// mpirun after an abort: it waits for its daemon on a host that does not answer, for good.

#include <unistd.h>

#include <csignal>
#include <ctime>
#include <fstream>
#include <string>

#include "aq/core/error.h"
#include "comm/activity.h"

namespace aq {
namespace {

constexpr int kPatienceSeconds = 10;

bool is_mpirun(pid_t process) {
  std::string name;
  std::getline(std::ifstream(str("/proc/", process, "/comm")) >> std::ws, name);
  return name == "mpirun" || name == "mpiexec" || name == "orterun" || name == "prterun";
}

/// False when the process has ended within the time. Safe after fork.
bool still_there_after(pid_t process, int seconds) {
  for (int i = 0; i < 4 * seconds; ++i) {
    const std::timespec pause{0, 250'000'000};
    nanosleep(&pause, nullptr);
    if (kill(process, 0) != 0) return false;
  }
  return true;
}

}  // namespace

void end_launcher_if_it_hangs() {
  const pid_t launcher = getppid();
  if (!is_mpirun(launcher)) return;  // it runs on another host, or the batch system is the launcher
  if (fork() != 0) return;
  setsid();                                                  // out of reach of what ends this rank
  for (const int descriptor : {0, 1, 2}) close(descriptor);  // nobody shall wait for this process
  if (still_there_after(launcher, kPatienceSeconds)) kill(launcher, SIGTERM);
  if (still_there_after(launcher, 2)) kill(launcher, SIGTERM);
  if (still_there_after(launcher, 2)) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace aq
