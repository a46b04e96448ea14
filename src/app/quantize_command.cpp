#include <CLI/CLI.hpp>
#include <optional>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq::app {
namespace {

void add_options(CLI::App& command, QuantizeArguments& a) {
  command.add_option("--model", a.model, "checkpoint directory")->required();
  add_model_options(command, a.options.architecture, a.options.assume_unused);
  add_calibration_options(command, a);
  command.add_option("--save", a.save, "run directory")->required();
  command.add_option("--resume", a.resume, "go on with the run in --save")
      ->check(CLI::IsMember({"auto", "never", "require"}))
      ->capture_default_str();
  command
      .add_option("--save-activations", a.options.save_activations,
                  "keep the output of every N-th layer in SAVE/activations until the next one, so "
                  "that a resume repeats at most N layers (default: none, it repeats all)")
      ->check(CLI::PositiveNumber);
  command.add_flag("--keep-hessians", a.options.keep_hessians,
                   "write every Hessian sum into SAVE/hessians");
  command.add_option("--hessians", a.hessians,
                     "run directory with kept Hessians (sequential none): quantize from them");
  command.add_flag("--strict", a.options.strict,
                   "a pattern that matches nothing and a group that does not divide "
                   "the row are errors");
  command.add_option("--max-fallbacks", a.options.max_fallbacks, "more fallbacks are an error")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--export", a.export_to,
                     "DIR[:FORMAT]: when done, write a checkpoint that servers load (see export)");
  add_device_option(command, a.options.device);
  add_serving_options(command, a.options.serving);
  add_stall_timeout(command, a.stall_timeout,
                    "seconds after which a rank that waits for a dead rank, or in a job where all "
                    "ranks wait, ends the job; 0: never");
}

QuantizeOptions resolve_options(const QuantizeArguments& a) {
  QuantizeOptions options = common_quantize_options(a);
  options.hessians = a.hessians;
  options.recipe = resolve_recipe(a);
  if (!a.export_to.empty()) {
    options.export_to = parse_export(a.export_to);
    options.export_to->run = options.save;
    options.export_to->model = options.model;
    options.export_to->architecture = options.architecture;
    options.export_to->assume_unused = options.assume_unused;
  }
  if (a.resume != "auto") options.resume = a.resume == "never" ? Resume::never : Resume::require;
  return options;
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("quantize", "quantize a checkpoint; mpirun -n R for R ranks");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<QuantizeArguments>();
  add_common_options(*command, common, true);
  add_options(*command, *arguments);
  add_gptq_options(*command, *arguments);
  command->callback([common, arguments, &action] {
    action = [common, arguments] {
      apply(*common);
      std::optional<StallWatch> watch;  // lives longer than MPI, whose end is watched too
      return run_on_ranks([&](Communicator& comm) {
        QuantizeOptions options = resolve_options(*arguments);
        watch.emplace(arguments->stall_timeout, comm.rank(), comm.size());
        options.stall_watch = &*watch;
        const RunSummary summary = pipeline().quantize_model(options, comm);
        if (comm.is_first() && !common->json.empty())
          write_text_file(common->json, summary_json(summary));
        if (options.export_to) {
          const ExportSummary exported = export_run(*options.export_to, comm);
          if (comm.is_first()) print_export(*options.export_to, exported);
        }
        return 0;
      });
    };
  });
}

}  // namespace aq::app
