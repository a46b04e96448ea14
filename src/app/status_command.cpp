#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>

#include "app/commands.h"
#include "app/table.h"
#include "aq/comm/heartbeat.h"
#include "aq/core/json.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"

namespace aq::app {
namespace {

constexpr int kExitFailed = 1, kExitStopped = 75, kExitRunning = 76;

bool is_elsewhere(const std::string& directory, const std::filesystem::path& run) {
  std::error_code ignored;
  return !directory.empty() && !std::filesystem::equivalent(directory, run, ignored);
}

/// Seconds since the status was written; by the time stamps of files where that can be told, for
/// the clock of the first rank's host may be another one.
double age_of(const RunDirectory& run, const RunStatus& status) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  const double age =
      age_of_file(run.status()).value_or(static_cast<double>(seconds - status.updated));
  return std::max(age, 0.0);
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

/// What is in work on each rank; of many those that wait least, since the others wait for them.
std::vector<std::pair<int, Heartbeat>> read_ranks(const RunDirectory& run, Index ranks) {
  constexpr std::size_t kShown = 16;
  std::vector<std::pair<int, Heartbeat>> beats;
  for (int rank = 0; rank < ranks; ++rank)
    if (auto beat = read_heartbeat(heartbeat_file(run.heartbeats(), rank)))
      beats.emplace_back(rank, std::move(*beat));
  if (beats.size() <= kShown) return beats;
  std::ranges::stable_sort(beats, std::greater{},
                           [](const auto& beat) { return beat.second.busy; });
  beats.resize(kShown);
  return beats;
}

std::string ranks_text(const std::vector<std::pair<int, Heartbeat>>& beats, Index ranks) {
  if (beats.empty()) return "";
  std::vector<std::vector<std::string>> rows{{"rank", "host", "memory", "computes", "at"}};
  for (const auto& [rank, beat] : beats)
    rows.push_back({str(rank), beat.host, bytes_text(beat.memory), fixed(100 * beat.busy, 0) + " %",
                    beat.activity});
  const Index more = ranks - std::ssize(beats);
  return table_text(rows) +
         (more > 0 ? str("  and ", more, " ranks more, which wait longer\n") : "");
}

std::string json_text(const RunStatus& status, double age,
                      const std::vector<std::pair<int, Heartbeat>>& beats) {
  OrderedJson json{{"state", status.state},
                   {"message", status.message},
                   {"layer", status.layer},
                   {"layers", status.layers},
                   {"elapsed_seconds", status.elapsed_seconds},
                   {"remaining_seconds", status.remaining_seconds},
                   {"updated_seconds_ago", age},
                   {"last_fallback", status.last_fallback},
                   {"ranks", OrderedJson::array()}};
  for (const auto& [rank, beat] : beats)
    json["ranks"].push_back({{"rank", rank},
                             {"host", beat.host},
                             {"memory", beat.memory},
                             {"computes", beat.busy},
                             {"at", beat.activity}});
  return json.dump(1) + "\n";
}

void print_status(const RunStatus& status, double age,
                  const std::vector<std::pair<int, Heartbeat>>& beats) {
  const bool running = status.state == "running";
  std::cout << status.state << "  layer " << status.layer << "/" << status.layers << "  "
            << duration_text(status.elapsed_seconds + (running ? age : 0));
  if (running && status.remaining_seconds > 0)
    std::cout << ", about " << duration_text(std::max(0.0, status.remaining_seconds - age))
              << " left";
  std::cout << "  " << status.ranks << " ranks, first on " << status.host << ", updated "
            << duration_text(age) << " ago\n";
  if (!status.message.empty()) std::cout << status.message << "\n";
  std::cout << ranks_text(beats, status.ranks);
  if (!status.last_fallback.empty()) std::cout << "last fallback  " << status.last_fallback << "\n";
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "status",
      "progress of a run; exit 0 done, 75 stopped, 76 running, 1 failed or died, 3 not a run");
  const auto common = std::make_shared<CommonOptions>();
  const auto path = std::make_shared<std::string>();
  add_common_options(*command, common, true);
  command->add_option("run", *path, "run directory")->required();
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      const RunDirectory run{*path};
      const std::optional<LockState> lock = look_at_lock(run.root);  // first: it may take a while
      RunStatus status = read_status(run);
      correct(status, lock, run.root);
      const double age = age_of(run, status);
      std::vector<std::pair<int, Heartbeat>> beats;
      if (status.state == "running") beats = read_ranks(run, status.ranks);
      print_status(status, age, beats);
      if (!common->json.empty()) write_text_file(common->json, json_text(status, age, beats));
      return exit_code(status);
    };
  });
}

}  // namespace aq::app
