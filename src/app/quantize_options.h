#pragma once
/// What the command lines of `quantize` and `plan` have in common.

#include <map>
#include <string>
#include <string_view>

#include "aq/pipeline/quantize.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace aq::app {

constexpr double kStallTimeout = 600;  ///< seconds; default

/// The command line as it was written; what it leaves out stays as the recipe says.
struct QuantizeArguments {
  std::string model, recipe, calibration, save, memory, hessians, machine, export_to;
  std::string resume = "auto", tokens_to_experts = "auto";
  double stall_timeout = kStallTimeout;
  QuantizeOptions options;
  std::map<std::string_view, std::string> settings;  ///< of setting_keys(); empty: not given
};

/// --architecture and --assume-unused, of every command that opens a model.
void add_model_options(CLI::App& command, std::filesystem::path& architecture,
                       std::vector<std::string>& assume_unused);
/// Recipe, calibration tokens, lanes and memory.
void add_calibration_options(CLI::App& command, QuantizeArguments& arguments);
/// --device.
void add_device_option(CLI::App& command, SolverDevice& device);
/// --tp and --ep.
std::pair<CLI::Option*, CLI::Option*> add_serving_plan(CLI::App& command, ServingPlan& plan);
/// --snap, --require-servable, --tp and --ep; the options that they add.
std::vector<CLI::Option*> add_serving_options(CLI::App& command, ServingOptions& serving);
/// --stall-timeout, of commands with a StallWatch.
void add_stall_timeout(CLI::App& command, double& seconds, const std::string& help);
/// The keys of the recipe's object "gptq"; a flag wins.
void add_gptq_options(CLI::App& command, QuantizeArguments& arguments);
/// What --machine describes; nothing without it.
std::optional<Machine> read_machine(const QuantizeArguments& arguments);
/// What `quantize` and `allocate` have in common, without a recipe.
QuantizeOptions common_quantize_options(const QuantizeArguments& arguments);
/// Error{usage} also for a file that cannot be read or is longer than 64 MiB: a flat plan of 70,000
/// linears takes 14.
Recipe read_recipe(const std::string& path);
/// The recipe with what the flags say instead.
Recipe resolve_recipe(const QuantizeArguments& arguments);

}  // namespace aq::app
