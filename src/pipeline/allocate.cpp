#include "aq/pipeline/allocate.h"

#include <algorithm>
#include <functional>
#include <set>

#include "aq/allocate/choose.h"
#include "aq/allocate/served.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/io/run_directory.h"
#include "aq/pipeline/quantize.h"
#include "aq/quant/solver.h"
#include "aq/report/summary.h"
#include "aq/run/prepare.h"
#include "aq/runtime/operations.h"
#include "pipeline/unit_losses.h"

namespace aq {
namespace {

/// The model, its units, and it as a whole in each of the formats.
struct Question {
  const AllocateOptions& options;
  const ModelFiles& files;
  std::vector<AllocationUnit> units;
  std::vector<std::vector<std::string>> patterns;  ///< by unit
  std::vector<Recipe> recipes = {};                ///< by format
  std::vector<Assignments> whole = {};             ///< by format

  /// Where the run of a format lies: "int3-32" for "int3:32".
  std::filesystem::path run(std::size_t format) const {
    return options.quantize.save / replace_all(options.formats[format].text, ":", "-");
  }
};

/// Rules that give each unit its format; `comment(unit)` is said of it.
std::vector<UnitRule> rules_of(const Question& question,
                               const std::function<const UnitFormat&(Index)>& format,
                               const std::function<std::string(Index)>& comment) {
  std::vector<UnitRule> rules;
  for (Index unit = 0; unit < std::ssize(question.units); ++unit)
    for (const std::string& pattern : question.patterns[unit])
      rules.push_back({pattern, &format(unit), comment(unit)});
  return rules;
}

/// Whether the model is quantized in each format.
bool makes_runs(const AllocateOptions& options) {
  return options.sensitivity == Sensitivity::measured || options.sensitivity == Sensitivity::error;
}

void check_options(const AllocateOptions& options) {
  const auto refuse = [](std::string_view option, std::string_view reason) {
    throw Error(ErrorKind::usage, "allocate", option, reason);
  };
  if (options.formats.empty()) refuse("--formats", "no format is named");
  std::set<std::string> seen;
  for (const UnitFormat& format : options.formats)
    if (!seen.insert(format.text).second)
      refuse("--formats", str("'", format.text, "' stands there twice"));
  if ((options.mean_bits > 0) == (options.most_bytes > 0))
    refuse("--mean-bits", "exactly one of --mean-bits and --max-bytes is needed");
  if (options.quantize.sequence_length == 1) refuse("--seqlen", "one token predicts none");
}

/// All ranks are told the same. Collective.
void compare_options(const AllocateOptions& options, Communicator& comm) {
  std::string formats;
  for (const UnitFormat& format : options.formats) formats += format.text + " ";
  RankFields fields = told(options.quantize);
  for (auto& [name, value] :
       RankFields{{"command", "allocate"},
                  {"--formats", formats},
                  {"--mean-bits", shortest(options.mean_bits)},
                  {"--max-bytes", str(options.most_bytes)},
                  {"--target", options.target},
                  {"--tp", str(options.plan.tensor_parallel)},
                  {"--ep", str(options.plan.expert_parallel)},
                  {"--sensitivity", str(static_cast<int>(options.sensitivity))},
                  {"--kl-nsamples", str(options.kl_samples)}})
    fields.emplace_back(std::move(name), std::move(value));
  compare_told(std::move(fields), comm);
}

Question open_question(const AllocateOptions& options, const ModelFiles& files) {
  const Recipe& base = options.quantize.recipe;
  const Model& model = files.model;
  Question question{
      options, files, allocation_units(model, assign(base, model), options.target), {}};
  if (question.units.empty())
    throw Error(ErrorKind::usage, "allocate", base.file,
                "it leaves all linears as they are: there is nothing to be spread");
  question.patterns = unit_patterns(question.units, model);
  for (const UnitFormat& format : options.formats) {
    const auto rules = rules_of(
        question, [&](Index) -> const UnitFormat& { return format; },
        [](Index) { return std::string(); });
    Recipe recipe = parse_recipe(recipe_with(base, rules), base.file + " in " + format.text);
    recipe.settings.sequential = Sequential::none;  // every unit beside the original of all others
    question.whole.push_back(assign(recipe, model));
    question.recipes.push_back(std::move(recipe));
  }
  return question;
}

/// Whether its untouched weight is the embedding, which a checkpoint holds in any case.
bool is_tied_head(const Model& model, const LinearSpec& linear) {
  return model.tied_head && linear.role == Role::head;
}

/// Of a linear, scales of groups included; as the checkpoint has it where it stays.
double bits_of(const ModelFiles& files, const LinearSpec& linear, const Assignment& assignment) {
  if (assignment.method != Method::copy)
    return static_cast<double>(stored_bits(assignment.scheme, linear.rows, linear.columns));
  if (is_tied_head(files.model, linear)) return 0;
  return 8 * stored_weight_bytes(files, linear) * static_cast<double>(linear.rows * linear.columns);
}

/// Bytes of all tensors of the checkpoint but the weights of the units.
double other_bytes(const Question& question) {
  double bytes = 0;
  for (const RawTensor& tensor : question.files.checkpoint.raw_tensors())
    bytes += static_cast<double>(tensor.bytes);
  for (const AllocationUnit& unit : question.units)
    for (const LinearSpec* linear : unit.linears) bytes -= bits_of(question.files, *linear, {}) / 8;
  return std::max(bytes, 0.0);
}

/// Units with sizes and servability of each format, as yet without losses.
std::vector<AllocatedUnit> sized_units(const Question& question) {
  const AllocateOptions& options = question.options;
  const auto served = served_formats({options.target, options.plan}, question.files.model,
                                     question.units, options.formats, question.whole);
  std::vector<AllocatedUnit> all;
  for (std::size_t u = 0; u < question.units.size(); ++u) {
    const AllocationUnit& unit = question.units[u];
    AllocatedUnit& one = all.emplace_back();
    one.name = unit.name;
    one.matrices = std::ssize(unit.linears);
    for (const LinearSpec* linear : unit.linears) one.weights += linear->rows * linear->columns;
    for (std::size_t f = 0; f < options.formats.size(); ++f) {
      double bits = 0;
      for (const LinearSpec* linear : unit.linears)
        bits += bits_of(question.files, *linear, question.whole[f].of(*linear));
      one.formats.push_back({static_cast<Index>(bits), {}, served[f][u]});
    }
  }
  return all;
}

/// Formats that some unit may have and that are no copy of the original.
std::vector<std::size_t> quantized_formats(const Question& question,
                                           const std::vector<AllocatedUnit>& units) {
  std::vector<std::size_t> formats;
  for (std::size_t f = 0; f < question.options.formats.size(); ++f)
    if (question.options.formats[f].format != "bf16" &&
        std::ranges::any_of(units, [&](const auto& unit) { return unit.formats[f].served; }))
      formats.push_back(f);
  return formats;
}

/// What lies in the directory of the runs, as the first rank sees it.
struct Kept {
  std::string hessians;           ///< a finished run that kept them, whatever its format; or empty
  std::string finished, keepers;  ///< a letter each run: whether it is done, and has Hessians
};

/// Collective.
Kept look_at_runs(const Question& question, const std::vector<std::size_t>& formats,
                  Communicator& comm) {
  Kept kept;
  if (comm.is_first()) {
    const std::filesystem::path& save = question.options.quantize.save;
    make_directory(save);
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(save))
      if (const RunDirectory run{entry.path()};
          file_exists(run.hessians()) && file_exists(run.model()))
        found.insert(entry.path().string());
    if (!found.empty()) kept.hessians = *found.begin();
    for (const std::size_t format : formats) {
      const RunDirectory run{question.run(format)};
      kept.finished += file_exists(run.model()) ? 'y' : 'n';
      kept.keepers += file_exists(run.hessians()) ? 'y' : 'n';
    }
  }
  for (std::string* text : {&kept.hessians, &kept.finished, &kept.keepers})
    *text = all_gather_values(comm, *text).front();
  return kept;
}

/// Quantizes the model in each format. One run sums and keeps the Hessians for all: one that has
/// done so, or began to, or the first. Finished ones are looked at and left. Collective.
void quantize_formats(const Question& question, const std::vector<std::size_t>& formats,
                      Communicator& comm) {
  Kept kept = look_at_runs(question, formats, comm);
  std::vector<std::size_t> order;
  for (const char keeper : {'y', 'n'})
    for (std::size_t i = 0; i < formats.size(); ++i)
      if (kept.keepers[i] == keeper) order.push_back(i);
  for (const std::size_t i : order) {
    const std::size_t format = formats[i];
    const bool finished = kept.finished[i] == 'y';
    QuantizeOptions options = question.options.quantize;
    options.recipe = question.recipes[format];
    options.save = question.run(format);
    options.keep_hessians = kept.hessians.empty() && !finished;
    if (!finished) options.hessians = kept.hessians;
    if (!options.hessians.empty()) options.offload.clear();
    options.stall_watch = nullptr;  // it looks into the directory of all runs
    if (comm.is_first())
      log_info(str("allocate: the model in ", question.options.formats[format].text, ", in ",
                   options.save.string()));
    quantize_model(options, comm);
    if (options.keep_hessians) kept.hessians = options.save.string();
  }
}

AllocationSums sums_of(const std::vector<AllocatedUnit>& units,
                       const std::function<Index(const AllocatedUnit&)>& format, double other) {
  AllocationSums sums;
  double bits = 0, weights = 0;
  for (const AllocatedUnit& unit : units) {
    const UnitFigures& figures = unit.formats[format(unit)];
    bits += static_cast<double>(figures.bits);
    weights += static_cast<double>(unit.weights);
    sums.loss += figures.loss.mean;
  }
  sums.mean_bits = bits / weights;
  sums.bytes = static_cast<Index>(bits / 8 + other);
  return sums;
}

/// The budget is less than the least.
[[noreturn]] void refuse_budget(const AllocateOptions& options,
                                const std::vector<AllocatedUnit>& units, double other) {
  bool all_served = true;
  const AllocationSums least = sums_of(
      units,
      [&](const AllocatedUnit& unit) {
        const auto smaller = [](const UnitFigures& a, const UnitFigures& b) {
          return a.served != b.served ? a.served : a.bits < b.bits;
        };
        for (const UnitFigures& figures : unit.formats) all_served = all_served && figures.served;
        return std::ranges::min_element(unit.formats, smaller) - unit.formats.begin();
      },
      other);
  throw Error(ErrorKind::usage, "allocate", options.most_bytes > 0 ? "--max-bytes" : "--mean-bits",
              str("even the smallest of the formats ",
                  all_served ? "" : str("that ", options.target, " takes for each part "), "take ",
                  fixed(least.mean_bits, 3), " bits a weight, scales included, and ",
                  bytes_text(least.bytes), " with all other tensors"),
              "name smaller formats or wider groups");
}

/// Sets `chosen` of each unit.
void choose(const AllocateOptions& options, double other, std::vector<AllocatedUnit>& units) {
  double weights = 0, all = 0;
  std::vector<std::vector<UnitOption>> choices;
  for (const AllocatedUnit& unit : units) {
    weights += static_cast<double>(unit.weights);
    std::vector<UnitOption>& of_unit = choices.emplace_back();
    for (const UnitFigures& figures : unit.formats) {
      of_unit.push_back({figures.bits, figures.loss.mean, figures.served});
      all += static_cast<double>(figures.bits);
    }
  }
  const double most = options.most_bytes > 0 ? 8 * (static_cast<double>(options.most_bytes) - other)
                                             : options.mean_bits * weights;
  const auto chosen = choose_options(choices, static_cast<Index>(std::clamp(most, 0.0, all)));
  if (!chosen) refuse_budget(options, units, other);
  for (std::size_t unit = 0; unit < units.size(); ++unit) units[unit].chosen = (*chosen)[unit];
}

/// "layer 0 attention: int2 0.0123, int3 0.00312"
std::string comment_of(const AllocateOptions& options, const AllocatedUnit& unit) {
  std::string text = unit.name + ": ";
  for (std::size_t f = 0; f < unit.formats.size(); ++f) {
    const UnitFigures& figures = unit.formats[f];
    text += str(f == 0 ? "" : ", ", options.formats[f].text, " ",
                figures.served ? short_number(figures.loss.mean) : "not served");
  }
  return text;
}

std::string allocated_recipe(const Question& question, const Allocation& allocation) {
  const AllocateOptions& options = question.options;
  std::string formats;
  for (const UnitFormat& format : options.formats)
    formats += (formats.empty() ? "" : ", ") + format.text;
  const std::string summary =
      str(fixed(allocation.chosen.mean_bits, 3), " stored bits a weight, of ", formats,
          "; comments: what each part loses, ",
          kSensitivityNames[static_cast<int>(options.sensitivity)]);
  return recipe_with(options.quantize.recipe,
                     rules_of(
                         question,
                         [&](Index unit) -> const UnitFormat& {
                           return options.formats[allocation.units[unit].chosen];
                         },
                         [&](Index unit) { return comment_of(options, allocation.units[unit]); }),
                     summary);
}

/// Formats were looked at in pairs; this is the whole. Throws Error{usage} with the verdict.
void check_served(const Question& question, const std::string& recipe) {
  const Model& model = question.files.model;
  fit_for_servers({question.options.plan, {}, question.options.target}, model,
                  assign(parse_recipe(recipe, "the allocated recipe"), model));
}

}  // namespace

Allocation allocate(const AllocateOptions& options, Communicator& comm) {
  check_options(options);
  runtime::initialize();
  use_single_threaded_blas();
  compare_options(options, comm);
  const ModelFiles files = open_model(options.quantize.model, options.quantize.architecture,
                                      options.quantize.assume_unused);
  refuse_packed(files, "allocate");
  compare_checkpoints(files, comm);
  const Question question = open_question(options, files);
  const double other = other_bytes(question);
  Allocation allocation;
  allocation.units = sized_units(question);
  choose(options, other, allocation.units);  // what is impossible is told before any work

  LossQuestion losses{options, files, question.units,
                      std::vector<std::filesystem::path>(options.formats.size())};
  if (makes_runs(options)) {
    if (StallWatch* watch = options.quantize.stall_watch)
      watch->beat_in(RunDirectory{options.quantize.save}.heartbeats());
    const std::vector<std::size_t> formats = quantized_formats(question, allocation.units);
    quantize_formats(question, formats, comm);
    for (const std::size_t format : formats) losses.runs[format] = question.run(format);
  }
  set_losses(losses, allocation.units, comm);

  choose(options, other, allocation.units);
  allocation.chosen = sums_of(
      allocation.units, [](const AllocatedUnit& unit) { return unit.chosen; }, other);
  for (Index f = 0; f < std::ssize(options.formats); ++f) {
    std::optional<AllocationSums>& uniform = allocation.uniform.emplace_back();
    if (std::ranges::all_of(allocation.units,
                            [f](const AllocatedUnit& unit) { return unit.formats[f].served; }))
      uniform = sums_of(
          allocation.units, [f](const AllocatedUnit&) { return f; }, other);
  }
  allocation.recipe = allocated_recipe(question, allocation);
  check_served(question, allocation.recipe);
  return allocation;
}

}  // namespace aq
