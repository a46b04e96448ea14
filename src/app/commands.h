#pragma once
/// The commands of the program: each adds its options and returns what runs it.

#include <functional>
#include <memory>
#include <string>

#include "aq/export/export.h"

namespace CLI {
class App;
}

namespace aq::app {

/// Runs the command that was chosen and returns the exit code.
using Action = std::function<int()>;

/// Options that every command has.
struct CommonOptions {
  std::string log_level = "info";
  bool quiet = false;
  int threads = 0;   ///< 0: the cores that this rank may use
  std::string json;  ///< file for the figures; empty: none
};
void add_common_options(CLI::App& command, const std::shared_ptr<CommonOptions>& options,
                        bool prints_figures);
/// Applies log level and threads.
void apply(const CommonOptions& options);

/// What was written, a line, and what to know of it.
void print_export(const ExportOptions& options, const ExportSummary& summary);

void add_quantize(CLI::App& app, Action& action);
void add_allocate(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_merge(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_status(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);

}  // namespace aq::app
