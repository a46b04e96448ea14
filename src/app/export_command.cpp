#include <CLI/CLI.hpp>
#include <iostream>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "aq/core/json.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/export/export.h"
#include "aq/io/file.h"

namespace aq::app {
namespace {

struct Arguments {
  ExportOptions options;
  std::string shard_size = "5GB";
};

std::string summary_json(const ExportOptions& options, const ExportSummary& summary) {
  const OrderedJson json{{"out", options.out.string()},    {"format", options.format},
                         {"matrices", summary.matrices},   {"tensors", summary.tensors},
                         {"shards", summary.shards},       {"bytes", summary.bytes},
                         {"was_there", summary.was_there}, {"seconds", summary.seconds},
                         {"remarks", summary.remarks}};
  return json.dump(1) + "\n";
}

}  // namespace

void print_export(const ExportOptions& options, const ExportSummary& summary) {
  if (log_level() < LogLevel::info) return;
  std::cout << options.out.string() << ": " << options.format << ", " << summary.matrices
            << " matrices quantized, " << summary.tensors << " tensors in " << summary.shards
            << (summary.shards == 1 ? " file, " : " files, ") << bytes_text(summary.bytes) << ", "
            << (summary.was_there ? "complete already" : duration_text(summary.seconds)) << "\n";
  for (const std::string& remark : summary.remarks) std::cout << "  note: " << remark << "\n";
}

void add_export(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "export", "a finished run as a checkpoint that servers load; mpirun -n R for R ranks");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  ExportOptions& options = arguments->options;
  add_common_options(*command, common, true);
  command->add_option("run", options.run, "run directory")->required();
  command->add_option("--out", options.out, "directory to write; must not exist")->required();
  command->add_option("--format", options.format, "compressed-tensors, gptq, gpt-oss or bf16")
      ->capture_default_str();
  command->add_option("--shard-size", arguments->shard_size, "most bytes of a safetensors file")
      ->capture_default_str();
  command->add_option("--model", options.model, "the run's checkpoint, where it was moved");
  add_model_options(*command, options.architecture, options.assume_unused);
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      arguments->options.shard_bytes = parse_bytes(arguments->shard_size, "--shard-size");
      const auto body = [&](Communicator& comm) {
        const ExportSummary summary = export_run(arguments->options, comm);
        if (!comm.is_first()) return 0;
        print_export(arguments->options, summary);
        if (!common->json.empty())
          write_text_file(common->json, summary_json(arguments->options, summary));
        return 0;
      };
      if (started_by_launcher()) return run_on_ranks(body);
      return body(*make_self_communicator());
    };
  });
}

}  // namespace aq::app
