#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "app/table.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/report/summary.h"

namespace aq::app {
namespace {

using Json = nlohmann::ordered_json;

/// The command line as it was written.
struct Arguments {
  QuantizeArguments quantize;
  std::vector<std::string> formats;
  std::string most_bytes, out;
  AllocateOptions options;
};

void add_options(CLI::App& command, Arguments& a) {
  command.add_option("--model", a.quantize.model, "checkpoint directory")->required();
  add_model_options(command, a.quantize.options.architecture, a.quantize.options.assume_unused);
  add_calibration_options(command, a.quantize);
  command.get_option("--config")
      ->required(false)
      ->description(
          "recipe (JSON) for all but formats: settings, and linears that stay as they are");
  command.get_option("--calib")->description(
      "calibration tokens (safetensors or HDF5); not needed for alpha-hill and uniform");
  command
      .add_option("--formats", a.formats,
                  "what a part may get, FORMAT or FORMAT:GROUP: int2:32,int3:32,mxfp4,bf16 (bf16: "
                  "as it is)")
      ->required()
      ->delimiter(',');
  auto* bits = command.add_option(
      "--mean-bits", a.options.mean_bits,
      "stored bits a weight of all parts, scales included (int3 in groups of 32: 3.5)");
  bits->check(CLI::PositiveNumber);
  command
      .add_option("--max-bytes", a.most_bytes,
                  "bytes of the whole checkpoint instead, e.g. 80GB: all tensors that are not "
                  "quantized are counted as the checkpoint has them")
      ->excludes(bits);
  const std::vector<std::string_view> targets = serving_targets();
  command
      .add_option("--target", a.options.target,
                  "server that must load the result: parts that it wants alike are one, formats "
                  "that it does not take are left out (docs/serving.md)")
      ->check(CLI::IsMember(std::vector<std::string>(targets.begin(), targets.end())));
  std::map<std::string, Sensitivity> sensitivities;
  for (const std::string_view name : kSensitivityNames)
    sensitivities[std::string(name)] = static_cast<Sensitivity>(sensitivities.size());
  command
      .add_option(
          "--sensitivity", a.options.sensitivity,
          "what a part loses in a format: measured (KL of the model with this part alone "
          "quantized), error (of its outputs, by its Hessians), alpha-hill (the tail of its "
          "spectrum), uniform (every weight counts alike)")
      ->transform(CLI::CheckedTransformer(sensitivities))
      ->default_str("measured");
  add_serving_plan(command, a.options.plan);
  command
      .add_option("--kl-nsamples", a.options.kl_samples,
                  "calibration sequences over which KL is measured, of --seqlen tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--save", a.quantize.save,
                     "directory for a run in each format, the Hessians and what was measured: what "
                     "is there is used again");
  command.add_option("--out", a.out, "write the recipe to this file")->required();
  add_device_option(command, a.quantize.options.device);
  add_stall_timeout(command, a.quantize.stall_timeout,
                    "seconds after which a rank that waits for a dead rank, or in a job where all "
                    "ranks wait, ends the job; 0: never");
}

/// It is written in the end, which may be hours away.
void check_place(const std::filesystem::path& out) {
  const auto refuse = [&](std::string_view reason) {
    throw Error(ErrorKind::input, "allocate", "--out " + out.string(), reason);
  };
  if (std::filesystem::is_directory(out)) refuse("it is a directory");
  if (const auto directory = out.parent_path(); !directory.empty() && !file_exists(directory))
    refuse("its directory does not exist");
}

/// Which format it is does not matter: rules behind it name another one.
std::string first_quantized(const std::vector<UnitFormat>& formats) {
  const auto found = std::ranges::find_if(
      formats, [](const UnitFormat& format) { return format.format != "bf16"; });
  return found == formats.end() ? "bf16" : found->format;
}

AllocateOptions resolve_options(const Arguments& a) {
  AllocateOptions options = a.options;
  for (const std::string& text : a.formats)
    options.formats.push_back(parse_unit_format(text, "--formats"));
  if (!a.most_bytes.empty()) options.most_bytes = parse_bytes(a.most_bytes, "--max-bytes");
  const bool runs =
      options.sensitivity == Sensitivity::measured || options.sensitivity == Sensitivity::error;
  for (const auto& [option, value] :
       {std::pair("--calib", a.quantize.calibration), std::pair("--save", a.quantize.save)})
    if (runs && value.empty())
      throw Error(ErrorKind::usage, "allocate", option,
                  "it is required unless --sensitivity is alpha-hill or uniform");
  options.quantize = common_quantize_options(a.quantize);
  options.quantize.recipe =
      a.quantize.recipe.empty()
          ? parse_recipe(str(R"({"default": {"wq": ")", first_quantized(options.formats), R"("}})"),
                         "all linears")
          : read_recipe(a.quantize.recipe);
  return options;
}

std::string result_json(const Allocation& allocation, const AllocateOptions& options) {
  const auto sums = [](const AllocationSums& one) {
    return Json{{"mean_bits", one.mean_bits}, {"bytes", one.bytes}, {"loss", one.loss}};
  };
  Json json = sums(allocation.chosen);
  json["sensitivity"] = kSensitivityNames[static_cast<int>(options.sensitivity)];
  for (std::size_t f = 0; f < options.formats.size(); ++f)
    if (allocation.uniform[f])
      json["uniform"][options.formats[f].text] = sums(*allocation.uniform[f]);
  for (const AllocatedUnit& unit : allocation.units) {
    Json entry{{"name", unit.name},
               {"matrices", unit.matrices},
               {"weights", unit.weights},
               {"chosen", options.formats[unit.chosen].text}};
    for (std::size_t f = 0; f < options.formats.size(); ++f) {
      const UnitFigures& figures = unit.formats[f];
      Json& format = entry["formats"][options.formats[f].text];
      format = {{"bits", figures.bits}, {"served", figures.served}, {"loss", nullptr}};
      if (figures.served) format["loss"] = figures.loss.mean;
      if (figures.loss.standard_error) format["loss_standard_error"] = *figures.loss.standard_error;
    }
    json["units"].push_back(std::move(entry));
  }
  return json.dump(1) + "\n";
}

void print(const Allocation& allocation, const AllocateOptions& options, const std::string& out) {
  const bool measured = options.sensitivity == Sensitivity::measured;
  std::vector<std::vector<std::string>> rows{
      {measured ? "KL with this part alone in" : "loss with this part in"}};
  for (const UnitFormat& format : options.formats) rows.front().push_back(format.text);
  rows.front().emplace_back("chosen");
  for (const AllocatedUnit& unit : allocation.units) {
    std::vector<std::string>& row = rows.emplace_back(std::vector{unit.name});
    for (const UnitFigures& figures : unit.formats)
      row.push_back(figures.served ? short_number(figures.loss.mean) : "not served");
    row.push_back(options.formats[unit.chosen].text);
  }
  const auto sums = [&](const std::string& name, const AllocationSums& one) {
    return std::vector<std::string>{name, fixed(one.mean_bits, 3), bytes_text(one.bytes),
                                    short_number(one.loss)};
  };
  std::vector<std::vector<std::string>> totals{{"", "bits a weight", "checkpoint", "sum of losses"},
                                               sums("chosen", allocation.chosen)};
  for (std::size_t f = 0; f < options.formats.size(); ++f)
    if (allocation.uniform[f])
      totals.push_back(sums("all in " + options.formats[f].text, *allocation.uniform[f]));
  std::cout << table_text(rows) << "\n" << table_text(totals) << "recipe  " << out << "\n";
}

}  // namespace

void add_allocate(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "allocate",
      "a recipe that spends a number of bits where they count; mpirun -n R for R ranks");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  add_common_options(*command, common, true);
  add_options(*command, *arguments);
  command->callback([common, arguments, &action] {
    action = [common, arguments] {
      apply(*common);
      std::optional<StallWatch> watch;  // lives longer than MPI, whose end is watched too
      return run_on_ranks([&](Communicator& comm) {
        AllocateOptions options = resolve_options(*arguments);
        if (comm.is_first()) check_place(arguments->out);
        const double timeout = arguments->quantize.stall_timeout;
        watch.emplace(timeout, comm.rank(), comm.size());
        options.quantize.stall_watch = &*watch;
        const Allocation allocation = pipeline().allocate(options, comm);
        if (!comm.is_first()) return 0;
        write_text_file(arguments->out, allocation.recipe);
        print(allocation, options, arguments->out);
        if (!common->json.empty()) write_text_file(common->json, result_json(allocation, options));
        return 0;
      });
    };
  });
}

}  // namespace aq::app
