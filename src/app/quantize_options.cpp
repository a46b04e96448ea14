#include "app/quantize_options.h"

#include <CLI/CLI.hpp>

#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq::app {

void add_model_options(CLI::App& command, std::filesystem::path& architecture,
                       std::vector<std::string>& assume_unused) {
  command.add_option("--architecture", architecture,
                     "JSON file that describes the architecture (docs/architectures.md)");
  command
      .add_option("--assume-unused", assume_unused,
                  "key of config.json that is not known and has no meaning for the forward pass "
                  "(may be repeated)")
      ->allow_extra_args(false);
}

void add_calibration_options(CLI::App& command, QuantizeArguments& a) {
  command.add_option("--config", a.recipe, "recipe (JSON)")->required();
  command.add_option("--calib", a.calibration,
                     "calibration tokens (safetensors or HDF5); not needed with --hessians");
  command
      .add_option("--nsamples", a.options.samples, "calibration sequences to use (default: all)")
      ->check(CLI::PositiveNumber);
  command.add_option("--seqlen", a.options.sequence_length, "tokens of a sequence (default: all)")
      ->check(CLI::PositiveNumber);
  command.add_option("--lanes", a.options.lanes, "units of computation, a power of two")
      ->check(CLI::PositiveNumber);
  command.add_option(
      "--memory", a.memory,
      "limit of a rank, e.g. 40GiB, beside the 60 MiB or so that a process has before it "
      "starts (default: what is free)");
  command.add_option(
      "--offload", a.options.offload,
      "directory on a local disk: activations that grow with the tokens of a rank lie in files "
      "there instead of memory; the bytes of the result are the same");
  command.add_option(
      "--machine", a.machine,
      "description of a node, for planned seconds (JSON; `doctor --measure` writes one)");
  const std::map<std::string, Compute> compute{
      {"auto", Compute::automatic}, {"fp32", Compute::fp32}, {"bf16", Compute::bf16}};
  command
      .add_option("--compute", a.options.compute,
                  "what products of the forward pass multiply, summed in fp32: auto takes bf16 "
                  "where the processors have instructions for it")
      ->transform(CLI::CheckedTransformer(compute))
      ->default_str("auto");
  command
      .add_option("--tokens-to-experts", a.tokens_to_experts,
                  "reduce: sums of each rank's tokens travel to the owners; dispatch: tokens "
                  "travel to their experts; the bytes are the same (default: what takes less time)")
      ->check(CLI::IsMember({"auto", "reduce", "dispatch"}));
}

void add_device_option(CLI::App& command, SolverDevice& device) {
  const std::map<std::string, SolverDevice> devices{{"auto", SolverDevice::automatic},
                                                    {"cpu", SolverDevice::cpu},
                                                    {"cuda", SolverDevice::cuda},
                                                    {"emulated", SolverDevice::emulated}};
  command
      .add_option(
          "--device", device,
          "where sums and factors are made and matrices solved: auto is the CPU as yet, cuda a GPU "
          "for each rank; emulated runs its kernels on the CPU, for tests (docs/gpu.md)")
      ->transform(CLI::CheckedTransformer(devices))
      ->default_str("auto");
}

std::pair<CLI::Option*, CLI::Option*> add_serving_plan(CLI::App& command, ServingPlan& plan) {
  return {command
              .add_option("--tp", plan.tensor_parallel,
                          "judge for servers that cut each matrix into so many parts")
              ->check(CLI::PositiveNumber)
              ->group("Serving (docs/serving.md)"),
          command.add_flag("--ep", plan.expert_parallel, "... and spread whole experts over them")
              ->group("Serving (docs/serving.md)")};
}

std::vector<CLI::Option*> add_serving_options(CLI::App& command, ServingOptions& serving) {
  const auto target = [&](const char* name, std::string& value, const char* help) {
    const std::vector<std::string_view> names = serving_targets();
    return command.add_option(name, value, help)
        ->check(CLI::IsMember(std::vector<std::string>(names.begin(), names.end())))
        ->group("Serving (docs/serving.md)");
  };
  const auto [tensor_parallel, expert_parallel] = add_serving_plan(command, serving.plan);
  return {target("--snap", serving.snap_to, "take the nearest recipe that this server loads"),
          target("--require-servable", serving.required_by,
                 "a recipe whose result this server does not load is an error"),
          tensor_parallel, expert_parallel};
}

void add_stall_timeout(CLI::App& command, double& seconds, const std::string& help) {
  command.add_option("--stall-timeout", seconds, help)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_gptq_options(CLI::App& command, QuantizeArguments& a) {
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

std::optional<Machine> read_machine(const QuantizeArguments& a) {
  if (a.machine.empty()) return std::nullopt;
  return machine_from_json(read_text_file(a.machine, Index{1} << 20), a.machine);
}

QuantizeOptions common_quantize_options(const QuantizeArguments& a) {
  QuantizeOptions options = a.options;
  options.model = a.model;
  options.calibration = a.calibration;
  options.save = a.save;
  options.machine = read_machine(a);
  if (!a.memory.empty()) options.memory = parse_bytes(a.memory, "--memory");
  options.tokens_to_experts = *tokens_to_experts_from_name(a.tokens_to_experts);
  return options;
}

Recipe read_recipe(const std::string& path) {
  constexpr Index kLimit = Index{1} << 26;
  std::string text;
  try {
    text = read_text_file(path, kLimit);
  } catch (const Error& error) {
    throw Error(ErrorKind::usage, "read the recipe", path,
                str("the file cannot be read: ", error.what()));
  }
  return parse_recipe(text, path);
}

Recipe resolve_recipe(const QuantizeArguments& a) {
  Recipe recipe = read_recipe(a.recipe);
  for (const auto& [key, text] : a.settings)
    if (!text.empty()) set_setting(recipe.settings, key, text);
  return recipe;
}

}  // namespace aq::app
