#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/plan_text.h"
#include "app/quantize_options.h"
#include "aq/core/json.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/export/servability.h"
#include "aq/io/file.h"
#include "aq/io/model_files.h"
#include "aq/io/tokens.h"
#include "aq/model/architecture_json.h"

namespace aq::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr Index kHeadroomPercent = 80;     // of a node's memory, as `quantize` takes by default
constexpr double kMxfp4Bytes = 17.0 / 32;  // two codes a byte and a scale for 32

struct Arguments : QuantizeArguments {
  int ranks = 1, ranks_per_node = 1;
  bool config_only = false;
};

void add_options(CLI::App& command, Arguments& a) {
  command.add_option("--model", a.model, "checkpoint directory, or a config.json")->required();
  add_model_options(command, a.options.architecture, a.options.assume_unused);
  add_calibration_options(command, a);
  add_serving_options(command, a.options.serving);
  command.add_flag("--keep-hessians", a.options.keep_hessians,
                   "as in quantize: counts the Hessian sums that are written");
  command.add_flag("--strict", a.options.strict, "a pattern that matches nothing is an error");
  command.add_option("--ranks", a.ranks, "ranks of the job")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--ranks-per-node", a.ranks_per_node, "ranks that share a node")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_flag("--config-only", a.config_only, "config.json is enough: no weights are there");
}

/// A model, and the bytes that its checkpoint takes for a weight.
struct PlannedModel {
  Model model;
  std::function<double(const LinearSpec&)> weight_bytes;
};

/// From config.json alone: weights are as it says, or bf16.
PlannedModel from_config(const Arguments& a) {
  const fs::path path =
      fs::is_directory(a.model) ? fs::path(a.model) / "config.json" : fs::path(a.model);
  const std::string text = read_text_file(path, Index{1} << 24);
  const std::string& file = path.string();
  PlannedModel planned;
  const fs::path& row = a.options.architecture;
  planned.model =
      row.empty() ? describe_model(text, file, a.options.assume_unused)
                  : describe_model(
                        architecture_from_json(read_text_file(row, Index{1} << 20), row.string()),
                        text, file, {}, a.options.assume_unused);
  const aq::Json json = parse_json(text, {ErrorKind::input, "read the model's configuration", file},
                                   JsonDialect::python);
  const bool wide = json.value("torch_dtype", json.value("dtype", "")) == "float32";
  planned.weight_bytes = [encoding = planned.model.encoding,
                          plain = wide ? 4.0 : 2.0](const LinearSpec& linear) {
    const bool inside = linear.role != Role::router && linear.role != Role::head;
    if (encoding == SourceEncoding::fp8_blocks && inside) return 1.0;
    const bool is_mlp = linear.expert >= 0;
    return encoding == SourceEncoding::mxfp4 && is_mlp ? kMxfp4Bytes : plain;
  };
  return planned;
}

/// From the headers of the checkpoint.
PlannedModel from_checkpoint(const Arguments& a) {
  auto files = std::make_shared<ModelFiles>(
      open_model(a.model, a.options.architecture, a.options.assume_unused));
  PlannedModel planned{files->model, {}};
  planned.weight_bytes = [files](const LinearSpec& linear) {
    return stored_weight_bytes(*files, linear);
  };
  return planned;
}

Workload workload_of(const Arguments& a, const Model& model) {
  const WorkloadChoice choice{a.options.samples, a.options.sequence_length, a.options.lanes};
  if (!a.calibration.empty()) {
    const TokenFile file = TokenFile::open(a.calibration);
    return make_workload(model, file.sequences, file.length, choice, file.path.string());
  }
  if (choice.samples == 0 || choice.sequence_length == 0)
    throw Error(ErrorKind::usage, "plan", "--nsamples and --seqlen",
                "both are required without --calib");
  return make_workload(model, choice.samples, choice.sequence_length, choice, "--seqlen");
}

std::vector<std::string> remarks_on(const Arguments& a, const Recipe& recipe, const Fitted& fitted,
                                    const Model& model) {
  const Assignments& assignments = fitted.assignments;
  std::vector<std::string> remarks = assumption_texts(a.options.assume_unused);
  if (!fitted.snapped.empty())
    remarks.push_back("snapped " + replace_all(fitted.snapped, "\n", "\n" + std::string(16, ' ')));
  for (std::string& remark : group_remarks(assignments, model))
    remarks.push_back(std::move(remark));
  if (const std::string servers = servers_line(model, assignments, a.options.serving.plan);
      !servers.empty())
    remarks.push_back("servers: " + servers);
  for (const std::string& remark : unmatched_patterns(recipe, model)) {
    if (a.options.strict)
      throw Error(ErrorKind::usage, "apply the recipe", recipe.file, remark, "--strict");
    remarks.push_back(str(recipe.file, ": ", remark));
  }
  return remarks;
}

void print_plan(const Arguments& a, int threads, const std::string& json_file) {
  const Machine machine = read_machine(a).value_or(Machine{});
  const PlannedModel planned =
      a.config_only || fs::is_regular_file(a.model) ? from_config(a) : from_checkpoint(a);
  const Recipe recipe = resolve_recipe(a);
  const Fitted fitted =
      fit_for_servers(a.options.serving, planned.model, assign(recipe, planned.model));
  const Assignments& assignments = fitted.assignments;
  const Workload workload = workload_of(a, planned.model);
  const int node_ranks = std::min(a.ranks_per_node, a.ranks);
  const CostOptions options{
      .machine = machine,
      .ranks_per_node = node_ranks,
      .threads =
          threads > 0 ? threads : static_cast<int>(std::max<Index>(1, machine.cores / node_ranks)),
      .keep_hessians = a.options.keep_hessians,
      .bf16 = a.options.compute == Compute::bf16 ||
              (a.options.compute == Compute::automatic && machine.forward_bf16_flops > 0),
      .weight_bytes = planned.weight_bytes};
  const PlanLimits limits{.memory = a.memory.empty()
                                        ? machine.memory_bytes / 100 * kHeadroomPercent / node_ranks
                                        : parse_bytes(a.memory, "--memory"),
                          .threads = options.threads,
                          .node_ranks = node_ranks,
                          .bf16 = options.bf16,
                          .offload = !a.options.offload.empty()};
  const ChosenPlan chosen =
      choose_plan(*tokens_to_experts_from_name(a.tokens_to_experts), planned.model, assignments,
                  a.ranks, workload, limits, options);
  const Plan& plan = chosen.plan;
  const PlanReport report{planned.model,
                          recipe,
                          plan,
                          workload,
                          limits,
                          options,
                          chosen.cost,
                          a.model,
                          remarks_on(a, recipe, fitted, planned.model),
                          explain_plan(planned.model, chosen, limits, options)};
  std::cout << plan_text(report);
  if (!json_file.empty()) write_text_file(json_file, plan_json(report).dump(1) + "\n");
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "plan", "what quantize would do on so many ranks: memory, work, bytes, time; no MPI");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  add_common_options(*command, common, true);
  add_options(*command, *arguments);
  add_gptq_options(*command, *arguments);
  command->callback([common, arguments, &action] {
    action = [common, arguments] {
      apply(*common);
      print_plan(*arguments, common->threads, common->json);
      return 0;
    };
  });
}

}  // namespace aq::app
