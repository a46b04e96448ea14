#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "app/commands.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"
#include "aq/report/summary.h"

namespace aq::app {
namespace {

/// The log again, from what is stored with the matrices.
std::vector<LogRow> log_rows(const std::filesystem::path& model) {
  const MatrixReader reader(model);
  std::vector<LogRow> rows;
  for (const std::string& name : reader.names()) {
    const auto [scheme, shape] = reader.describe(name);
    rows.push_back({name, shape.first, shape.second, scheme,
                    stats_from_json(reader.stats(name), str(model.string(), ": ", name))});
  }
  return rows;
}

/// Nothing for what is no run: the merge says so, and no lock is left in a directory of others.
std::unique_ptr<RunLock> lock_if_run(const RunDirectory& run) {
  if (!std::filesystem::exists(run.manifest())) return nullptr;
  return lock_run(run.root, [](int exit_code) { std::_Exit(exit_code); });
}

}  // namespace

void add_merge(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("merge", "write model.h5 from the shards of a run");
  const auto common = std::make_shared<CommonOptions>();
  const auto path = std::make_shared<std::string>();
  add_common_options(*command, common, false);
  command->add_option("run", *path, "run directory")->required();
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      const RunDirectory run{*path};
      const std::unique_ptr<RunLock> lock = lock_if_run(run);
      const Stopwatch watch;
      const Index count = merge_shards(run);
      write_text_file(run.log(), quant_log_csv(log_rows(run.model())));
      std::cout << run.model().string() << ": " << count << " matrices, "
                << bytes_text(static_cast<Index>(std::filesystem::file_size(run.model()))) << ", "
                << duration_text(watch.seconds()) << "\n";
      return 0;
    };
  });
}

}  // namespace aq::app
