#include <CLI/CLI.hpp>
#include <map>
#include <optional>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq::app {
namespace {

/// The command line as it was written; what it leaves out stays as the recipe says.
struct Arguments {
  std::string model, recipe, calibration, save, memory, hessians, resume = "auto",
                                                                  tokens_to_experts = "auto";
  QuantizeOptions options;
  double stall_timeout = 600;
  std::map<std::string_view, std::string> settings;  ///< of setting_keys(); empty: not given
};

void add_options(CLI::App& command, Arguments& a) {
  command.add_option("--model", a.model, "checkpoint directory")->required();
  command.add_option("--architecture", a.options.architecture,
                     "JSON file that describes the architecture (docs/architectures.md)");
  command.add_option("--config", a.recipe, "recipe (JSON)")->required();
  command.add_option("--calib", a.calibration,
                     "calibration tokens (HDF5); not needed with --hessians");
  command.add_option("--save", a.save, "run directory")->required();
  command
      .add_option("--nsamples", a.options.samples, "calibration sequences to use (default: all)")
      ->check(CLI::PositiveNumber);
  command.add_option("--seqlen", a.options.sequence_length, "tokens of a sequence (default: all)")
      ->check(CLI::PositiveNumber);
  command.add_option("--lanes", a.options.lanes, "units of computation, a power of two")
      ->check(CLI::PositiveNumber);
  command.add_option("--memory", a.memory, "limit of a rank, e.g. 40GiB (default: what is free)");
  command
      .add_option("--tokens-to-experts", a.tokens_to_experts,
                  "reduce: sums of each rank's tokens travel to the owners; dispatch: tokens "
                  "travel to their experts; the result is the same")
      ->check(CLI::IsMember({"auto", "reduce", "dispatch"}))
      ->capture_default_str();
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
  command
      .add_option("--stall-timeout", a.stall_timeout,
                  "seconds after which a rank that waits for a dead rank, or in a job where all "
                  "ranks wait, ends the job; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

/// The keys of the recipe's object "gptq"; a flag wins.
void add_gptq_options(CLI::App& command, Arguments& a) {
  for (const SettingKey& setting : setting_keys()) {
    const auto is_valid = [key = setting.key](const std::string& text) {
      try {
        QuantizeSettings settings;
        set_setting(settings, key, text);
        return std::string();
      } catch (const Error& error) {
        return std::string(error.what());
      }
    };
    command
        .add_option("--" + replace_all(std::string(setting.key), "_", "-"), a.settings[setting.key],
                    str(setting.help, ": ", setting.values, " (default ", setting.initial, ")"))
        ->check(CLI::Validator(is_valid, ""))
        ->group("GPTQ (these win over the recipe)");
  }
}

QuantizeOptions resolve_options(const Arguments& a) {
  QuantizeOptions options = a.options;
  options.model = a.model;
  options.calibration = a.calibration;
  options.save = a.save;
  options.hessians = a.hessians;
  options.recipe = read_recipe(a.recipe);
  for (const auto& [key, text] : a.settings)
    if (!text.empty()) set_setting(options.recipe.settings, key, text);
  if (!a.memory.empty()) options.memory = parse_bytes(a.memory, "--memory");
  options.tokens_to_experts = *tokens_to_experts_from_name(a.tokens_to_experts);
  if (a.resume != "auto") options.resume = a.resume == "never" ? Resume::never : Resume::require;
  return options;
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("quantize", "quantize a checkpoint; mpirun -n R for R ranks");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
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
        return 0;
      });
    };
  });
}

}  // namespace aq::app
