#include "aq/page/run_report.h"

#include <algorithm>
#include <charconv>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/model/stored_names.h"
#include "aq/recipe/recipe.h"
#include "aq/report/parse.h"

namespace aq {
namespace {

constexpr const char* kOperation = "report";

Manifest manifest_of(const RunDirectory& run) {
  if (auto manifest = read_manifest(run)) return std::move(*manifest);
  throw Error(ErrorKind::input, kOperation, run.root.string(),
              "it is not the directory of a run: there is no manifest.json",
              "name what quantize --save was given");
}

/// Sum of "123 bytes of <time>" (Checkpoint::file_states).
Index file_bytes(const Manifest& manifest) {
  Index sum = 0;
  for (const auto& [file, state] : manifest.files) {
    Index bytes = 0;
    std::from_chars(state.data(), state.data() + state.size(), bytes);
    sum += bytes;
  }
  return sum;
}

std::vector<std::string> matrix_names(const Manifest& manifest) {
  std::vector<std::string> names;
  for (const CompletePart& part : manifest.complete)
    names.insert(names.end(), part.matrices.begin(), part.matrices.end());
  return names;
}

/// The log of complete layers from their shards, in the order of the model.
std::vector<LogRow> log_of_shards(const RunDirectory& run, const Manifest& manifest) {
  std::map<std::string, LogRow> found;
  for (const CompletePart& part : manifest.complete)
    for (const std::string& shard : part.shards) {
      const std::filesystem::path path = run.shards() / shard;
      const MatrixReader reader(path);
      for (const std::string& name : reader.names())
        found[name] = stored_row(reader, name, path.string());
    }
  std::vector<LogRow> rows;
  for (const std::string& name : matrix_names(manifest)) {
    if (!found.contains(name))
      throw Error(ErrorKind::input, kOperation, run.shards().string(), str("no shard holds ", name),
                  "run quantize again: it redoes what is missing");
    rows.push_back(std::move(found[name]));
  }
  return rows;
}

/// quant_log.csv where it is that of all the manifest's matrices; another run's may lie there until
/// this one is merged.
bool read_merged_log(const RunDirectory& run, RunReport& report) {
  if (!report.finished() || !file_exists(run.log())) return false;
  report.log = parse_quant_log(read_text_file(run.log()), run.log().string());
  return std::ranges::equal(report.log, matrix_names(report.manifest), {}, &LogRow::name);
}

void read_records(const RunDirectory& run, RunReport& report) {
  if (file_exists(run.status()) || file_exists(run.failure())) report.status = read_status(run);
  if (file_exists(run.metrics()))
    for (LayerMetrics& metrics :
         parse_metrics(read_text_file(run.metrics()), run.metrics().string()))
      if (metrics.layer < report.complete_layers())
        report.layers[metrics.layer] = std::move(metrics);
  if (file_exists(run.sessions()))
    report.sessions = parse_sessions(read_text_file(run.sessions()), run.sessions().string());
}

SourceFacts facts_of(const ModelFiles& files, const RunReport& report) {
  const Model& model = files.model;
  SourceFacts facts{.architecture = model.architecture,
                    .parameters = parameter_count(model),
                    .stored_bytes = {},
                    .assigned = {},
                    .verdicts = {}};
  const Assignments assignments =
      assign(parse_recipe(report.told("recipe"), report.told("recipe_file")), model);
  for (const LinearSpec* linear : all_linears(model)) {
    const Assignment& assignment = assignments.of(*linear);
    const std::string kind = module_kind(linear->name, linear->layer, linear->expert);
    count_kind(kind, to_string(assignment), facts.assigned);
    if (assignment.method != Method::copy)
      facts.stored_bytes[linear->name] =
          stored_weight_bytes(files, *linear) * static_cast<double>(linear->rows * linear->columns);
  }
  for (const std::string_view target : serving_targets())
    facts.verdicts.push_back(judge(target, model, assignments));
  return facts;
}

void read_source(const SourceChoice& choice, RunReport& report) {
  try {
    const ModelFiles files =
        open_source(choice, recorded_source(report.manifest), report.directory, kOperation);
    const std::string now = files.checkpoint.fingerprint();
    if (now != report.identity("model"))
      throw Error(ErrorKind::input, kOperation, files.checkpoint.directory().string(),
                  "the run was made from another checkpoint");
    report.source = facts_of(files, report);
  } catch (const Error& error) {
    report.no_source = error.what();
  }
}

/// The last `count` parts of a path.
std::string end_of(const std::filesystem::path& path, Index count) {
  std::filesystem::path end;
  std::filesystem::path rest = path;
  for (; count > 0 && rest.has_filename(); --count, rest = rest.parent_path())
    end = end.empty() ? rest.filename() : rest.filename() / end;
  return count > 0 ? path.string() : end.string();
}

}  // namespace

void count_kind(const std::string& kind, const std::string& what, KindCounts& counts) {
  const std::array key{kind, what};
  const auto found = std::ranges::find(counts, key, &KindCounts::value_type::first);
  if (found == counts.end())
    counts.emplace_back(key, 1);
  else
    ++found->second;
}

bool RunReport::finished() const {
  return std::ssize(manifest.complete) == manifest.layers + 1;
}

Index RunReport::complete_layers() const {
  return std::min(std::ssize(manifest.complete), manifest.layers);
}

const RunSummary* RunReport::session() const {
  const auto most = std::ranges::max_element(sessions, {}, &RunSummary::parts);
  return most == sessions.end() ? nullptr : &*most;
}

std::string RunReport::told(std::string_view key) const {
  return field_of(manifest.configuration, key);
}

std::string RunReport::identity(std::string_view key) const {
  return field_of(manifest.fingerprint, key);
}

std::string module_kind(const std::string& name, Index layer, Index expert) {
  const std::string pattern = module_pattern(name, layer, expert);
  const std::size_t at = layer < 0 ? std::string::npos : pattern.find(".*.");
  return at == std::string::npos ? pattern : pattern.substr(at + 3);
}

RunReport read_run_report(const std::filesystem::path& directory, const SourceChoice& choice) {
  const RunDirectory run{directory};
  RunReport report;
  report.directory = std::filesystem::weakly_canonical(std::filesystem::absolute(directory));
  report.label = report.directory.string();
  report.manifest = manifest_of(run);
  read_records(run, report);
  report.merged = read_merged_log(run, report);
  if (!report.merged) report.log = log_of_shards(run, report.manifest);
  report.source_bytes = file_bytes(report.manifest);
  if (report.merged && file_exists(run.model()))
    report.model_bytes = static_cast<Index>(std::filesystem::file_size(run.model()));
  read_source(choice, report);
  return report;
}

void label_runs(std::vector<RunReport>& runs) {
  for (RunReport& run : runs)
    for (Index parts = 1;; ++parts) {
      run.label = end_of(run.directory, parts);
      const auto same = std::ranges::count_if(runs, [&](const RunReport& other) {
        return end_of(other.directory, parts) == run.label;
      });
      if (same <= 1 || run.label == run.directory.string()) break;
    }
}

}  // namespace aq
