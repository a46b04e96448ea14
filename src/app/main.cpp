#include <CLI/CLI.hpp>
#include <iostream>
#include <thread>

#include "app/commands.h"
#include "app/process.h"
#include "aq/core/error.h"
#include "aq/core/log.h"
#include "aq/core/parallel.h"

namespace aq::app {
namespace {

const std::map<std::string, LogLevel> kLogLevels{{"error", LogLevel::error},
                                                 {"warning", LogLevel::warning},
                                                 {"info", LogLevel::info},
                                                 {"debug", LogLevel::debug}};

/// Ranks of this job on this machine, as the launcher tells; 1 when it does not.
int local_ranks() {
  for (const char* name :
       {"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "MPI_LOCALNRANKS"})
    if (const char* text = std::getenv(name)) {
      const int ranks = std::atoi(text);
      if (ranks > 0) return ranks;
    }
  return 1;
}

}  // namespace

void add_common_options(CLI::App& command, const std::shared_ptr<CommonOptions>& options,
                        bool prints_figures) {
  command.add_option("--log-level", options->log_level, "error, warning, info or debug")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}))
      ->capture_default_str();
  command.add_flag("--quiet", options->quiet, "warnings and errors alone, as --log-level warning")
      ->excludes("--log-level");
  command.add_option("--threads", options->threads, "threads of a rank (default: its cores)")
      ->check(CLI::Range(1, 4096));
  if (prints_figures) command.add_option("--json", options->json, "write the figures to this file");
}

void apply(const CommonOptions& options) {
  set_log_level(options.quiet ? LogLevel::warning : kLogLevels.at(options.log_level));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  set_thread_count(options.threads > 0 ? options.threads : std::max(1, cores / local_ranks()));
}

int run(int argc, char** argv) {
  CLI::App app{"aq-dist: GPTQ for Mixture-of-Experts checkpoints, on many ranks"};
  app.set_version_flag("--version", "aq-dist " AQ_VERSION);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  Action action;
  add_quantize(app, action);
  add_allocate(app, action);
  add_plan(app, action);
  add_merge(app, action);
  add_eval(app, action);
  add_export(app, action);
  add_verify(app, action);
  add_report(app, action);
  add_inspect(app, action);
  add_status(app, action);
  add_doctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    check_standard_output();  // of --help and --version
    return code == 0 ? 0 : static_cast<int>(ErrorKind::usage);
  }
  const int code = action();
  check_standard_output();
  return code;
}

}  // namespace aq::app

int main(int argc, char** argv) {
  try {
    aq::app::prepare_process();
    return aq::app::run(argc, argv);
  } catch (const aq::Error& error) {
    aq::log_error(error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    aq::log_error(error.what());
    return static_cast<int>(aq::ErrorKind::internal);
  }
}
