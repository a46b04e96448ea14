#include "aq/pipeline/allocate.h"

#include <algorithm>
#include <set>

#include "aq/allocate/choose.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/export/servability.h"
#include "aq/io/file.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"
#include "aq/pipeline/quantize.h"
#include "aq/run/prepare.h"
#include "pipeline/unit_losses.h"

namespace aq {
namespace {

/// The whole model in one of the formats.
struct Candidate {
  const UnitFormat& format;
  Recipe recipe;
  Assignments assignments;
};

/// The model, its units and the candidates.
struct Question {
  const AllocateOptions& options;
  ModelFiles files;
  std::vector<AllocationUnit> units;
  std::vector<std::vector<std::string>> patterns;  ///< by unit
  std::vector<Candidate> candidates = {};
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
}

Question open_question(const AllocateOptions& options) {
  const QuantizeOptions& quantize = options.quantize;
  Question question{
      options, open_model(quantize.model, quantize.architecture, quantize.assume_unused), {}, {}};
  const Model& model = question.files.model;
  question.units = allocation_units(model, assign(quantize.recipe, model), options.target);
  if (question.units.empty())
    throw Error(ErrorKind::usage, "allocate", quantize.recipe.file,
                "it leaves all linears as they are: there is nothing to be spread");
  question.patterns = unit_patterns(question.units, model);
  for (const UnitFormat& format : options.formats) {
    const auto rules = rules_of(
        question, [&](Index) -> const UnitFormat& { return format; },
        [](Index) { return std::string(); });
    Recipe recipe = parse_recipe(recipe_with(quantize.recipe, rules),
                                 quantize.recipe.file + " in " + format.text);
    recipe.settings = quantize.recipe.settings;
    recipe.settings.sequential = Sequential::none;  // every unit beside the original of all others
    Assignments assignments = assign(recipe, model);
    question.candidates.push_back({format, std::move(recipe), std::move(assignments)});
  }
  return question;
}

/// Of a linear, scales of groups included; as the checkpoint has it where it stays.
double bits_of(const ModelFiles& files, const LinearSpec& linear, const Assignment& assignment) {
  if (assignment.method == Method::copy)
    return 8 * stored_weight_bytes(files, linear) *
           static_cast<double>(linear.rows * linear.columns);
  return static_cast<double>(stored_bits(assignment.scheme, linear.rows, linear.columns));
}

/// Bytes of all tensors of the checkpoint but the weights of the units.
double other_bytes(const Question& question) {
  double bytes = 0;
  for (const RawTensor& tensor : question.files.checkpoint.raw_tensors())
    bytes += static_cast<double>(tensor.bytes);
  for (const AllocationUnit& unit : question.units)
    for (const LinearSpec* linear : unit.linears)
      bytes -= stored_weight_bytes(question.files, *linear) *
               static_cast<double>(linear->rows * linear->columns);
  return std::max(bytes, 0.0);
}

/// Units with sizes and servability of each format, as yet without losses.
std::vector<AllocatedUnit> sized_units(const Question& question) {
  const Model& model = question.files.model;
  std::vector<std::set<std::string>> refused;
  std::string verdicts;
  for (const Candidate& candidate : question.candidates) {
    std::set<std::string>& names = refused.emplace_back();
    if (question.options.target.empty()) continue;
    const Verdict verdict = judge(question.options.target, model, candidate.assignments);
    verdicts +=
        str(verdicts.empty() ? "" : "\n", candidate.format.text, ": ", verdict_text(verdict));
    for (const Objection& objection : verdict.objections)
      if (objection.gravity == Gravity::refused)
        names.insert(objection.matrices.begin(), objection.matrices.end());
  }
  std::vector<AllocatedUnit> all;
  for (const AllocationUnit& unit : question.units) {
    AllocatedUnit& one = all.emplace_back();
    one.name = unit.name;
    one.matrices = std::ssize(unit.linears);
    for (const LinearSpec* linear : unit.linears) one.weights += linear->rows * linear->columns;
    bool any = false;
    for (std::size_t f = 0; f < question.candidates.size(); ++f) {
      double bits = 0;
      UnitFigures figures;
      for (const LinearSpec* linear : unit.linears) {
        bits += bits_of(question.files, *linear, question.candidates[f].assignments.of(*linear));
        figures.served = figures.served && !refused[f].contains(linear->name);
      }
      figures.bits = static_cast<Index>(bits);
      any = any || figures.served;
      one.formats.push_back(figures);
    }
    if (!any)
      throw Error(ErrorKind::usage, "allocate", "--target " + question.options.target,
                  str("it serves none of the formats for ", unit.name, "\n", verdicts));
  }
  return all;
}

/// Where a format's run lies: "int3-32" for "int3:32".
std::filesystem::path run_of(const AllocateOptions& options, const UnitFormat& format) {
  return options.quantize.save / replace_all(format.text, ":", "-");
}

void quantize_candidate(const Question& question, const Candidate& candidate,
                        const std::filesystem::path& hessians, Communicator& comm) {
  QuantizeOptions options = question.options.quantize;
  options.recipe = candidate.recipe;
  options.save = run_of(question.options, candidate.format);
  options.keep_hessians = hessians.empty();
  options.hessians = hessians;
  if (!hessians.empty()) options.offload.clear();
  options.stall_watch = nullptr;  // it looks into the directory of all runs
  if (comm.is_first())
    log_info(str("allocate: the model in ", candidate.format.text, ", in ", options.save.string()));
  quantize_model(options, comm);
}

/// A finished run in the directory of the runs that kept its Hessians, whatever its format.
std::filesystem::path kept_hessians(const std::filesystem::path& save) {
  std::set<std::filesystem::path> found;
  if (file_exists(save))
    for (const auto& entry : std::filesystem::directory_iterator(save))
      if (const RunDirectory run{entry.path()};
          entry.is_directory() && file_exists(run.hessians()) && file_exists(run.model()))
        found.insert(run.root);
  return found.empty() ? "" : *found.begin();
}

/// Quantizes the model in each format. One run sums and keeps the Hessians for all: one that has
/// done so, or began to, or the first.
void quantize_candidates(const Question& question, Communicator& comm) {
  const auto run = [&](const Candidate* candidate) {
    return run_of(question.options, candidate->format);
  };
  std::vector<const Candidate*> candidates;
  for (const Candidate& candidate : question.candidates)
    if (candidate.format.format != "bf16") candidates.push_back(&candidate);
  std::ranges::stable_partition(candidates, [&](const Candidate* candidate) {
    return file_exists(RunDirectory{run(candidate)}.hessians());
  });
  std::filesystem::path hessians = kept_hessians(question.options.quantize.save);
  for (const Candidate* candidate : candidates) {
    quantize_candidate(question, *candidate, run(candidate) == hessians ? "" : hessians, comm);
    if (hessians.empty()) hessians = run(candidate);
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

/// Sets `chosen` of each unit.
void choose(const Question& question, std::vector<AllocatedUnit>& units, double other) {
  double weights = 0;
  std::vector<std::vector<UnitOption>> choices;
  for (const AllocatedUnit& unit : units) {
    weights += static_cast<double>(unit.weights);
    std::vector<UnitOption>& options = choices.emplace_back();
    for (const UnitFigures& figures : unit.formats)
      options.push_back({figures.bits, figures.loss.mean, figures.served});
  }
  const AllocateOptions& options = question.options;
  const double most = options.most_bytes > 0 ? 8 * (static_cast<double>(options.most_bytes) - other)
                                             : options.mean_bits * weights;
  const auto chosen = choose_options(choices, static_cast<Index>(std::max(most, 0.0)));
  if (!chosen) {
    const AllocationSums least = sums_of(
        units,
        [](const AllocatedUnit& unit) {
          const auto smaller = [](const UnitFigures& a, const UnitFigures& b) {
            return a.served != b.served ? a.served : a.bits < b.bits;
          };
          return std::ranges::min_element(unit.formats, smaller) - unit.formats.begin();
        },
        other);
    throw Error(ErrorKind::usage, "allocate",
                options.most_bytes > 0 ? "--max-bytes" : "--mean-bits",
                str("even the smallest of the formats take ", fixed(least.mean_bits, 3),
                    " bits a weight, scales included, and ", bytes_text(least.bytes),
                    " with all other tensors"),
                "name smaller formats or wider groups");
  }
  for (std::size_t unit = 0; unit < units.size(); ++unit) units[unit].chosen = (*chosen)[unit];
}

/// "measured: int2 0.0123, int3 0.00312"
std::string comment_of(const AllocateOptions& options, const AllocatedUnit& unit) {
  std::string text;
  for (std::size_t f = 0; f < unit.formats.size(); ++f)
    text += str(f == 0 ? "" : ", ", options.formats[f].text, " ",
                fixed(unit.formats[f].loss.mean, 6), unit.formats[f].served ? "" : " (not served)");
  return str(unit.name, ": ", text);
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

/// Units may be served in each format and not together.
void check_served(const Question& question, const std::string& recipe) {
  if (question.options.target.empty()) return;
  const Model& model = question.files.model;
  const Verdict verdict = judge(question.options.target, model,
                                assign(parse_recipe(recipe, "the allocated recipe"), model));
  if (!verdict.served())
    throw Error(ErrorKind::usage, "allocate", "--target " + question.options.target,
                str("it does not serve these formats beside each other: ", verdict_text(verdict)));
}

}  // namespace

Allocation allocate(const AllocateOptions& options, Communicator& comm) {
  check_options(options);
  std::string formats;
  for (const UnitFormat& format : options.formats) formats += format.text + " ";
  compare_told({{"command", "allocate"},
                {"--formats", formats},
                {"--mean-bits", shortest(options.mean_bits)},
                {"--max-bytes", str(options.most_bytes)},
                {"--target", options.target},
                {"--sensitivity", str(static_cast<int>(options.sensitivity))},
                {"--windows", str(options.windows)},
                {"recipe", options.quantize.recipe.text}},
               comm);
  const Question question = open_question(options);
  Allocation allocation;
  allocation.units = sized_units(question);
  const double other = other_bytes(question);
  // What is impossible is told before any work.
  choose(question, allocation.units, other);

  if (options.sensitivity == Sensitivity::measured || options.sensitivity == Sensitivity::error) {
    if (StallWatch* watch = options.quantize.stall_watch)
      watch->beat_in(RunDirectory{options.quantize.save}.heartbeats());
    quantize_candidates(question, comm);
  }
  std::vector<std::filesystem::path> runs;
  for (const UnitFormat& format : options.formats)
    runs.push_back(format.format == "bf16" ? "" : run_of(options, format));
  const LossQuestion losses{options, question.files, question.units, runs};
  set_losses(losses, allocation.units, comm);

  choose(question, allocation.units, other);
  allocation.chosen = sums_of(
      allocation.units, [](const AllocatedUnit& unit) { return unit.chosen; }, other);
  for (Index f = 0; f < std::ssize(options.formats); ++f)
    allocation.uniform.push_back(sums_of(
        allocation.units, [f](const AllocatedUnit&) { return f; }, other));
  allocation.recipe = allocated_recipe(question, allocation);
  check_served(question, allocation.recipe);
  return allocation;
}

}  // namespace aq
