#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>

#include "app/commands.h"
#include "aq/core/text.h"
#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"

namespace aq::app {
namespace {

constexpr int kExitFailed = 1, kExitStopped = 75, kExitRunning = 76;

bool is_elsewhere(const std::string& directory, const std::filesystem::path& run) {
  std::error_code ignored;
  return !directory.empty() && !std::filesystem::equivalent(directory, run, ignored);
}

/// "2 minutes ago"; by the time stamps of files where that can be told, for the clock of the first
/// rank's host may be another one.
std::string updated_text(const RunDirectory& run, const RunStatus& status) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  const double age =
      age_of_file(run.status()).value_or(static_cast<double>(seconds - status.updated));
  return duration_text(std::max(age, 0.0)) + " ago";
}

/// What is written, corrected by who holds the lock: a killed job leaves "running" behind, and a
/// job that has just started an older state.
void correct(RunStatus& status, const std::optional<LockState>& lock,
             const std::filesystem::path& run) {
  if (status.state == "done") return;
  if (lock && lock->alive) {
    if (status.state != "running") status.message = "starting: " + to_string(lock->holder);
    status.state = "running";
  } else if (lock && lock->copied) {
    status.state = "died";
    status.message =
        str("this is a copy of the run in ", lock->directory, ", made while ",
            to_string(lock->holder), " was at work there; quantize with --save to go on here");
  } else if (status.state == "running") {
    status.state = "died";
    status.message =
        "it ended without a word (killed, or its machine failed); start the same "
        "command again to resume";
    if (lock && is_elsewhere(lock->directory, run))
      status.message += str(" (it ran in ", lock->directory, ": moved or copied from there)");
  }
}

int exit_code(const RunStatus& status) {
  if (status.state == "done") return 0;
  if (status.state == "stopped") return kExitStopped;
  return status.state == "running" ? kExitRunning : kExitFailed;
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "status",
      "progress of a run; exit 0 done, 75 stopped, 76 running, 1 failed or died, 3 not a run");
  const auto common = std::make_shared<CommonOptions>();
  const auto path = std::make_shared<std::string>();
  add_common_options(*command, common, false);
  command->add_option("run", *path, "run directory")->required();
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      const RunDirectory run{*path};
      const std::optional<LockState> lock = look_at_lock(run.root);  // first: it may take a while
      RunStatus status = read_status(run);
      correct(status, lock, run.root);
      std::cout << status.state << "  layer " << status.layer << "/" << status.layers << "  "
                << duration_text(status.elapsed_seconds);
      if (status.remaining_seconds > 0 && status.state == "running")
        std::cout << ", about " << duration_text(status.remaining_seconds) << " left";
      std::cout << "  " << status.ranks << " ranks, first on " << status.host << ", updated "
                << updated_text(run, status) << "\n";
      if (!status.message.empty()) std::cout << status.message << "\n";
      return exit_code(status);
    };
  });
}

}  // namespace aq::app
