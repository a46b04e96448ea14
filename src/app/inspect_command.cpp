#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/print_model.h"
#include "app/quantize_options.h"
#include "app/table.h"
#include "aq/core/text.h"
#include "aq/export/servability.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"
#include "aq/io/tokens.h"
#include "aq/model/architecture_json.h"
#include "aq/model/stored_names.h"
#include "aq/recipe/recipe.h"

namespace aq::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Arguments {
  std::string path, recipe, recipe_out, tokens, architecture_out;
  fs::path architecture;
  std::vector<std::string> assume_unused;
  ServingOptions serving;
};

constexpr int kQuiet = -1;  // a rank other than the first

/// Which servers will load the result, and what keeps the others from it.
void print_servers(const Assignments& assignments, const Model& model, const ServingPlan& plan,
                   Json& json) {
  if (servers_line(model, assignments).empty()) return;
  std::cout << "servers\n";
  for (const std::string_view target : serving_targets()) {
    const Verdict verdict = judge(target, model, assignments, plan);
    std::string text = verdict_text(verdict);
    if (!verdict.served())
      if (const Snapped nearest = snap(target, model, assignments, plan); nearest.served)
        text += str("\nnearest: --snap ", target, ", ", snap_text(nearest));
    std::cout << "  " << target << std::string(14 - target.size(), ' ')
              << replace_all(text, "\n", "\n                ") << "\n";
    Json& entry = json["servers"][std::string(target)];
    entry = {
        {"format", verdict.format}, {"served", verdict.served()}, {"objections", Json::array()}};
    for (const Objection& objection : verdict.objections)
      entry["objections"].push_back({{"rule", objection.rule},
                                     {"source", objection.source},
                                     {"gravity", gravity_name(objection.gravity)},
                                     {"matrices", objection.matrices}});
  }
}

/// What the recipe does, one line for linears that differ only in layer and expert.
void print_recipe(const Recipe& recipe, const Assignments& assignments, const Model& model,
                  const ServingPlan& plan, Json& json) {
  std::map<std::string, std::map<std::string, Index>> by_module;
  for (const LinearSpec* linear : all_linears(model)) {
    const std::string what = to_string(assignments.of(*linear));
    ++by_module[module_pattern(*linear)][what];
    json["linears"][linear->name] = what;
  }
  std::cout << "recipe " << recipe.file << "\n";
  std::vector<std::vector<std::string>> rows;
  for (const auto& [module, kinds] : by_module)
    for (const auto& [what, count] : kinds) rows.push_back({module, str(count), what});
  std::cout << table_text(rows);
  for (const std::string& remark : group_remarks(assignments, model))
    std::cout << "  " << remark << "\n";
  for (const std::string& remark : unmatched_patterns(recipe, model))
    std::cout << "  " << recipe.file << ": " << remark << "\n";
  print_servers(assignments, model, plan, json);
}

void print_utilization(const Utilization& utilization, const Model& model, Json& json) {
  std::vector<std::vector<std::string>> rows{
      {"layer", "least", "median", "mean", "most", "most/mean", "without tokens"}};
  for (std::size_t layer = 0; layer < utilization.expert_tokens.size(); ++layer) {
    std::vector<std::int64_t> counts = utilization.expert_tokens[layer];
    json["expert_tokens"].push_back(counts);
    if (counts.empty()) continue;
    std::sort(counts.begin(), counts.end());
    double mean = 0;
    for (const std::int64_t count : counts)
      mean += static_cast<double>(count) / static_cast<double>(counts.size());
    rows.push_back({str(layer), str(counts.front()), str(counts[counts.size() / 2]), fixed(mean, 1),
                    str(counts.back()), fixed(static_cast<double>(counts.back()) / mean, 2),
                    str(std::count(counts.begin(), counts.end(), 0))});
  }
  std::cout << "tokens per expert (" << utilization.tokens << " tokens, top-"
            << model.moe_layers().back()->moe->routing.top_k << ")\n"
            << table_text(rows);
  for (std::size_t layer = 0; layer < utilization.expert_tokens.size(); ++layer) {
    std::cout << "  layer " << layer << ":";
    for (const std::int64_t count : utilization.expert_tokens[layer]) std::cout << " " << count;
    std::cout << "\n";
  }
}

/// A checkpoint, what a recipe does with it, and how its experts are used.
void inspect_model(const Arguments& arguments, Json& json) {
  const ModelFiles files =
      open_model(arguments.path, arguments.architecture, arguments.assume_unused);
  print_model(files, json);
  if (!arguments.architecture_out.empty()) {
    write_text_file(arguments.architecture_out, architecture_to_json(files.row));
    std::cout << "  architecture written to " << arguments.architecture_out << "\n";
  }
  if (arguments.recipe.empty()) return;
  const Recipe recipe = read_recipe(arguments.recipe);
  const Fitted fitted =
      fit_for_servers(arguments.serving, files.model, assign(recipe, files.model));
  if (!fitted.snapped.empty())
    std::cout << "snapped " << replace_all(fitted.snapped, "\n", "\n  ") << "\n";
  print_recipe(recipe, fitted.assignments, files.model, arguments.serving.plan, json);
  if (arguments.recipe_out.empty()) return;
  write_text_file(arguments.recipe_out, flat_plan(recipe, fitted.assignments, files.model));
  std::cout << "  written to " << arguments.recipe_out << "\n";
}

/// Needs the forward pass, so it runs on the ranks of the job.
int inspect_utilization(const Arguments& arguments, Json& json) {
  return run_on_ranks([&](Communicator& comm) {
    const Model model =
        open_model(arguments.path, arguments.architecture, arguments.assume_unused).model;
    if (model.moe_layers().empty())
      throw Error(ErrorKind::usage, "inspect", "--tokens", "the model has no experts");
    if (comm.is_first()) inspect_model(arguments, json);
    EvaluateOptions options;
    options.model = arguments.path;
    options.tokens = arguments.tokens;
    options.architecture = arguments.architecture;
    options.assume_unused = arguments.assume_unused;
    const Utilization utilization = pipeline().expert_utilization(options, comm);
    if (comm.is_first()) print_utilization(utilization, model, json);
    return comm.is_first() ? 0 : kQuiet;
  });
}

void print_matrices(const fs::path& path, Json& json) {
  const MatrixReader reader(path);
  std::map<std::string, Index> schemes;
  Index weights = 0, bits = 0;
  for (const std::string& name : reader.names()) {
    const auto [scheme, shape] = reader.describe(name);
    ++schemes[to_string(scheme)];
    weights += shape.first * shape.second;
    bits += stored_bits(scheme, shape.first, shape.second);
  }
  std::cout << "matrix file " << path.string() << "\n"
            << "  matrices      " << reader.names().size() << ": " << counts_text(schemes) << "\n"
            << "  weights       " << fixed(static_cast<double>(weights) / 1e6, 3) << " M at "
            << fixed(static_cast<double>(bits) / static_cast<double>(std::max<Index>(weights, 1)),
                     3)
            << " bits\n";
  json = {{"matrices", reader.names()}, {"weights", weights}, {"bits", bits}};
}

void print_tokens(const TokenFile& file, Json& json) {
  std::cout << "token file " << file.path.string() << "\n  " << file.sequences << " sequences of "
            << file.length << " tokens" << (file.has_lengths ? ", some padded" : "") << "\n";
  json = {{"sequences", file.sequences}, {"length", file.length}, {"lengths", file.has_lengths}};
}

void print_run(const RunDirectory& run, Json& json) {
  const RunStatus status = read_status(run);
  const auto manifest = read_manifest(run);
  std::cout << "run " << run.root.string() << "\n  " << status.state << ", layer " << status.layer
            << " of " << status.layers << "\n";
  if (manifest) {
    for (const auto& [key, value] : manifest->fingerprint) {
      std::cout << "  " << key << ": " << value << "\n";
      json[key] = value;
    }
  }
  if (fs::exists(run.model())) print_matrices(run.model(), json["model"]);
}

void inspect_file(const fs::path& path, Json& json) {
  if (TokenFile::is_one(path))
    print_tokens(TokenFile::open(path), json);
  else
    print_matrices(path, json);
}

/// The exit code, or kQuiet on ranks that have nothing to write.
int inspect(const Arguments& arguments, Json& json) {
  const fs::path path = arguments.path;
  if (!arguments.tokens.empty()) return inspect_utilization(arguments, json);
  if (fs::is_directory(path) && fs::exists(RunDirectory{path}.manifest()))
    print_run({path}, json);
  else if (!fs::is_regular_file(path))
    inspect_model(arguments, json);
  else
    inspect_file(path, json);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("inspect", "what a checkpoint, token file, matrix file or run holds");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  add_common_options(*command, common, true);
  command->add_option("path", arguments->path, "directory or file")->required();
  CLI::Option* recipe = command->add_option("--recipe", arguments->recipe,
                                            "show what this recipe does with each linear");
  command
      ->add_option("--recipe-out", arguments->recipe_out,
                   "write what the recipe does as a flat plan, one line a linear")
      ->needs(recipe);
  for (CLI::Option* option : add_serving_options(*command, arguments->serving))
    option->needs(recipe);
  add_model_options(*command, arguments->architecture, arguments->assume_unused);
  command->add_option("--architecture-out", arguments->architecture_out,
                      "write the architecture as such a file");
  command->add_option("--tokens", arguments->tokens, "count the tokens that go to each expert");
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      Json json = Json::object();
      const int code = inspect(*arguments, json);
      if (code == 0 && !common->json.empty()) write_text_file(common->json, json.dump(1) + "\n");
      return code == kQuiet ? 0 : code;
    };
  });
}

}  // namespace aq::app
