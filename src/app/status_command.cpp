#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <iostream>

#include "app/commands.h"
#include "aq/core/text.h"
#include "aq/io/run_directory.h"

namespace aq::app {
namespace {

constexpr int kExitFailed = 1, kExitStopped = 75, kExitRunning = 76;

/// False only when the run is of this machine and its first process is gone.
bool may_be_alive(const RunStatus& status) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return status.host != host.data() || kill(static_cast<pid_t>(status.process), 0) == 0 ||
         errno == EPERM;
}

int exit_code(const RunStatus& status) {
  if (status.state == "done") return 0;
  if (status.state == "stopped") return kExitStopped;
  return status.state == "running" ? kExitRunning : kExitFailed;
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "status", "progress of a run; exit 0 done, 75 stopped, 76 running, 1 failed, 3 not a run");
  const auto common = std::make_shared<CommonOptions>();
  const auto path = std::make_shared<std::string>();
  add_common_options(*command, common, false);
  command->add_option("run", *path, "run directory")->required();
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      RunStatus status = read_status({*path});
      if (status.state == "running" && !may_be_alive(status)) {
        status.state = "failed";
        status.message = "its process is gone; start the same command again to resume";
      }
      const auto now = std::chrono::system_clock::now().time_since_epoch();
      const Index age =
          std::chrono::duration_cast<std::chrono::seconds>(now).count() - status.updated;
      std::cout << status.state << "  layer " << status.layer << "/" << status.layers << "  "
                << duration_text(status.elapsed_seconds);
      if (status.remaining_seconds > 0 && status.state == "running")
        std::cout << ", about " << duration_text(status.remaining_seconds) << " left";
      std::cout << "  " << status.ranks << " ranks, first on " << status.host << ", updated "
                << duration_text(static_cast<double>(age)) << " ago\n";
      if (!status.message.empty()) std::cout << status.message << "\n";
      return exit_code(status);
    };
  });
}

}  // namespace aq::app
