#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "aq/core/hash.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"
#include "aq/report/parse.h"

namespace aq::app {
namespace {

/// The log again, from what is stored with the matrices.
std::vector<LogRow> log_rows(const std::filesystem::path& model) {
  const MatrixReader reader(model);
  std::vector<LogRow> rows;
  for (const std::string& name : reader.names())
    rows.push_back(stored_row(reader, name, model.string()));
  return rows;
}

/// Nothing for what is no run: the merge says so, and no lock is left in a directory of others.
std::unique_ptr<RunLock> lock_if_run(const RunDirectory& run) {
  if (!std::filesystem::exists(run.manifest())) return nullptr;
  return lock_run(run.root, [](int exit_code) { std::_Exit(exit_code); });
}

void merge(const RunDirectory& run) {
  const std::unique_ptr<RunLock> lock = lock_if_run(run);
  const Stopwatch watch;
  const Index count = merge_shards(run);
  write_text_file(run.log(), quant_log_csv(log_rows(run.model())));
  std::cout << run.model().string() << ": " << count << " matrices, "
            << bytes_text(static_cast<Index>(std::filesystem::file_size(run.model()))) << ", "
            << duration_text(watch.seconds()) << "\n";
}

/// The first of many ranks merges, when all see the same run.
int merge_on_ranks(const RunDirectory& run) {
  return run_on_ranks([&](Communicator& comm) {
    const bool is_run = std::filesystem::exists(run.manifest());
    compare_ranks({{"command", "merge"},
                   {"manifest.json of the run",
                    is_run ? hash_text(xxh64(read_text_file(run.manifest()))) : "absent"}},
                  comm);
    if (comm.is_first()) merge(run);
    comm.barrier();
    return 0;
  });
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
      if (started_by_launcher()) return merge_on_ranks(run);
      merge(run);
      return 0;
    };
  });
}

}  // namespace aq::app
