#include "aq/run/kept_hessians.h"

#include <array>
#include <charconv>

#include "aq/core/hash.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/quant/hessian.h"
#include "aq/run/sources.h"

namespace aq {
namespace {

constexpr const char* kKeepAnew = "keep the Hessians anew (quantize --keep-hessians)";
constexpr std::string_view kOperation = "use kept Hessians";
constexpr std::string_view kOutputFactor = "output_factor", kNone = "none";

/// What must be equal for sums to be those that the new run would compute itself.
constexpr std::array<std::string_view, 11> kFields{
    "model", "architecture",     "tokens",        "sequences", "sequence_length", kOutputFactor,
    "lanes", "routing_exponent", "expert_tokens", "starved",   "compute"};

[[noreturn]] void fail(const RunDirectory& run, const std::string& reason,
                       std::string_view hint = {}) {
  throw Error(ErrorKind::input, kOperation, run.root.string(), reason, hint);
}

std::vector<std::string> names_of(const TaskPlan& task) {
  std::vector<std::string> names;
  for (const MatrixPlan& matrix : task.matrices) names.push_back(matrix.linear.name);
  return names;
}

/// The rows of a sum; none where there is no sum.
Matrix matrix_of(const WeightedSum& sum, Index columns) {
  Matrix matrix;
  matrix.rows = std::ssize(sum.values) / columns;
  matrix.columns = columns;
  matrix.values = sum.values;
  return matrix;
}

}  // namespace

std::string part_text(Index part, Index layers) {
  return part == layers ? "the head" : str("layer ", part);
}

void HessianKeeper::start(Index part) {
  part_ = part;
  writer_.reset();
}

void HessianKeeper::keep(const TaskPlan& task, const TaskSum& sum) {
  if (!writer_) writer_.emplace(run_.hessians() / RunDirectory::shard_name(part_, rank_));
  const std::vector<std::string> names = names_of(task);
  NamedHessian kept{names.front(),      names,          hessian_upper(sum.sum, task.columns),
                    sum.sum.weight_sum, sum.sum.tokens, sum.starved};
  kept.cross = matrix_of(sum.cross, task.columns);
  kept.output_factor = matrix_of(sum.output_factor, kRowTile);
  writer_->write_hessian(kept);
}

bool HessianKeeper::finish() {
  if (!writer_) return false;
  writer_->close();
  writer_.reset();
  return true;
}

std::vector<std::pair<std::string, std::string>> calibration_fields(
    const QuantizeSettings& settings) {
  const bool all = settings.expert_tokens == ExpertTokens::all;
  std::string sequential = "stage";
  if (settings.sequential == Sequential::layer) sequential = "layer";
  if (settings.sequential == Sequential::none) sequential = "none";
  const std::string policy = settings.starved == Starved::rtn ? "rtn" : "all_tokens";
  return {{"sequential", sequential},
          {std::string(kOutputFactor), std::string(settings.sums_outputs() ? "layer" : kNone)},
          {"routing_exponent", shortest(settings.routing_exponent)},
          {"expert_tokens", all ? "all" : "routed"},
          {"starved", all || settings.min_tokens == 0
                          ? "never"
                          : str(policy, " below ", settings.min_tokens, " tokens")}};
}

KeptHessians::KeptHessians(const std::filesystem::path& directory) : run_{directory} {
  auto manifest = read_manifest(run_);
  if (!manifest) fail(run_, "it is not the directory of a run: there is no manifest.json");
  manifest_ = std::move(*manifest);
  if (const std::string& order = field("sequential"); order != "none")
    fail(run_,
         str("its Hessians were summed with sequential '", order,
             "': they depend on the recipe of that run, which had quantized what came before"),
         "keep Hessians of a run with sequential 'none'");
  for (Index part = 0; part <= manifest_.layers; ++part) {
    const auto at = static_cast<std::size_t>(part);
    if (at >= manifest_.complete.size())
      fail(run_, part_text(part, manifest_.layers) + " is not complete", "let that run end first");
    if (!manifest_.complete[at].hessians)
      fail(run_, str("the Hessians of ", part_text(part, manifest_.layers), " were not kept"),
           "repeat that run with --keep-hessians: it does what is missing");
  }
}

const std::string& KeptHessians::field(const std::string& name) const {
  for (const auto& [key, value] : manifest_.fingerprint)
    if (key == name) return value;
  throw Error(ErrorKind::input, kOperation, run_.manifest().string(),
              str("the fingerprint has no field '", name, "'"),
              "the run was made by another version of aq-dist");
}

Index KeptHessians::number(const std::string& name) const {
  const std::string& text = field(name);
  Index value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1)
    fail(run_, str("manifest.json: ", name, " is '", text, "'"));
  return value;
}

void KeptHessians::check_fields(const Manifest& now) const {
  for (const std::string_view name : kFields)
    for (const auto& [key, value] : now.fingerprint)
      if (key == name && field(key) != value && !(key == kOutputFactor && value == kNone))
        fail(run_,
             str("its Hessians are those of another calibration: ", key, ": '", field(key),
                 "' there, '", value, "' now"),
             "use the same, or keep Hessians of a run with what is wanted now");
}

std::string KeptHessians::identity() const {
  std::uint64_t hash = fnv1a(field("solver"), fnv1a(field("numerics")));
  for (const std::string_view name : kFields) hash = fnv1a(field(std::string(name)), hash);
  for (const CompletePart& part : manifest_.complete)
    for (const auto& [name, sum] : part.sources) hash = fnv1a(str(name, sum), hash);
  return hash_text(hash);
}

void KeptHessians::check_sources(const std::vector<SourceChecksums>& sources) const {
  for (std::size_t part = 0; part < sources.size(); ++part)
    if (const std::string difference =
            source_difference(manifest_.complete[part].sources, sources[part]);
        !difference.empty())
      fail(run_,
           str("its Hessians of ", part_text(static_cast<Index>(part), manifest_.layers),
               " are those of another checkpoint: ", difference),
           kKeepAnew);
}

void KeptHessians::check_stage(const StagePlan& stage) const {
  for (const TaskPlan& task : stage.tasks) {
    if (!task.needs_hessian) continue;
    const std::vector<std::string> names = names_of(task);
    const HessianReader& file = holder(names.front());
    const NamedHessian kept = file.describe(names.front());
    const auto refuse = [&](const std::string& reason, const char* hint) {
      throw Error(ErrorKind::input, kOperation, str(file.path().string(), ": ", names.front()),
                  reason, hint);
    };
    if (kept.used_by != names)
      refuse("its linears are not those that share an input in this model", kKeepAnew);
    const Matrix& factors = kept.output_factor;
    if (task.output_rows > 0 && kept.tokens > 0 &&
        (factors.rows != task.output_rows || factors.columns != kRowTile))
      refuse(str("its output factors are [", factors.rows, ", ", factors.columns, "], not [",
                 task.output_rows, ", ", kRowTile, "]"),
             "keep Hessians of a run that quantizes the same of q, k, v by gptq, or say "
             "--output-factor none");
  }
}

void KeptHessians::check_complete(const Plan& plan) const {
  KeptHessians kept(run_.root);
  for (const LayerPlan& layer : plan.layers) {
    kept.open(layer.index);
    for (const StagePlan* stage : layer.stages()) kept.check_stage(*stage);
  }
  kept.open(manifest_.layers);
  kept.check_stage(plan.head);
}

void KeptHessians::open(Index part) {
  part_ = part;
  files_.clear();
  file_of_.clear();
  for (const std::string& name : *manifest_.complete[part].hessians) {
    files_.emplace_back(run_.hessians() / name);
    for (const std::string& task : files_.back().names()) file_of_.emplace(task, files_.size() - 1);
  }
}

const HessianReader& KeptHessians::holder(const std::string& name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end())
    fail(run_,
         str("no file of ", part_text(part_, manifest_.layers), " in ", run_.hessians().string(),
             " holds a Hessian of ", name),
         "keep Hessians of a run whose recipe quantizes it by gptq");
  return files_[found->second];
}

std::vector<TaskSum> KeptHessians::sums(const StagePlan& stage, int rank) const {
  std::vector<TaskSum> sums(stage.tasks.size());
  parallel_for(static_cast<Index>(sums.size()), [&](Index i) {
    const TaskPlan& task = stage.tasks[i];
    if (!task.needs_hessian) return;
    const std::string& name = task.matrices.front().linear.name;
    const HessianReader& file = holder(name);
    const bool mine = task.owner == rank;
    NamedHessian kept = mine ? file.read(name, task.columns) : file.describe(name);
    TaskSum& sum = sums[i];
    sum.starved = kept.starved;
    if (!mine) return;
    sum.sum = {hessian_values(kept.upper, task.columns), kept.weight_sum, kept.tokens};
    if (task.output_rows == 0) return;
    sum.output_factor = {std::move(kept.output_factor.values), kept.weight_sum, kept.tokens};
  });
  return sums;
}

}  // namespace aq
