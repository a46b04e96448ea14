/// model.h5, the log and the checkpoint of a run against its manifest and each other.

#include <charconv>
#include <set>

#include "aq/core/hash.h"
#include "aq/core/json.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/read_error.h"
#include "aq/io/run_directory.h"
#include "aq/io/weight_reader.h"
#include "aq/recipe/recipe.h"
#include "verify/judge.h"
#include "verify/parts.h"
#include "verify/source.h"

namespace aq {
namespace {

constexpr std::string_view kManifest = "manifest.json", kModel = "model.h5", kLog = "quant_log.csv";
constexpr std::string_view kColumns =
    "name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,tokens,"
    "weight_sum,damping,error,error_rtn,weight_error,fallback";
constexpr std::string_view kFirstColumns =  // of older builds
    "name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,tokens,"
    "weight_sum,damping,error,error_rtn,fallback";

/// "a,b" -> a, b
std::vector<std::string> split(std::string_view line, char separator) {
  std::vector<std::string> fields;
  while (true) {
    const std::size_t end = std::min(line.find(separator), line.size());
    fields.emplace_back(line.substr(0, end));
    if (end == line.size()) return fields;
    line.remove_prefix(end + 1);
  }
}

/// quant_log.csv: the fields of every matrix, its name the first.
struct Log {
  std::vector<std::string> columns;  ///< none: the first line is not that of a log
  std::map<std::string, std::vector<std::string>> rows;
  std::vector<std::string> repeated;
  bool is_cut = false;

  explicit Log(std::string_view text) {
    std::vector<std::string> lines = split(text, '\n');
    if (lines.front() != kColumns && lines.front() != kFirstColumns) return;
    columns = split(lines.front(), ',');
    is_cut = !lines.back().empty();
    if (!is_cut) lines.pop_back();
    for (std::size_t i = 1; i < lines.size(); ++i) {
      std::vector<std::string> fields = split(lines[i], ',');
      for (; fields.size() > columns.size(); fields.erase(fields.begin() + 1))
        fields[0] += "," + fields[1];  // a name with commas
      const std::string name = fields.front();
      if (rows.contains(name)) repeated.push_back(name);
      rows[name] = std::move(fields);
    }
  }
};

bool says(const std::string& field, const Json& value) {
  if (value.is_string()) return field == value.get_ref<const std::string&>();
  double number = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), number);
  return value.is_number() && error == std::errc{} && end == field.data() + field.size() &&
         number == value.get<double>();
}

/// What the log says of a matrix, by column.
Json logged_fields(const QuantizedMatrix& matrix, const Json& stats) {
  const Scheme& scheme = matrix.scheme;
  Json fields = stats;
  fields["format"] = format_name(scheme);
  fields["symmetric"] = scheme.symmetric ? "true" : "false";
  fields["group_size"] = scheme.group_size;
  fields["scale_dtype"] = scale_type_name(scheme.scale_type);
  fields["rows"] = matrix.rows;
  fields["columns"] = matrix.columns;
  fields["bits"] = static_cast<double>(stored_bits(scheme, matrix.rows, matrix.columns)) /
                   static_cast<double>(matrix.rows * matrix.columns);
  return fields;
}

class RunCheck {
 public:
  RunCheck(const VerifyOptions& options, Communicator& comm, VerifyReport& report)
      : run_{options.directory}, collector_(comm), report_(report) {
    read_the_manifest();
    files_.emplace(open_source(options.source, recorded_, options.directory, "verify"));
    for (const LinearSpec* linear : all_linears(files_->model)) linears_[linear->name] = linear;
    compare_ranks(
        {{"fingerprint of the checkpoint", files_->checkpoint.fingerprint()},
         {"manifest of the run", hash_text(xxh64(text_of(run_.manifest()).value_or("")))}},
        comm);
  }

  void check() {
    report_.what = "run";
    check_sources();
    for (const Finding& finding : report_.findings)
      if (finding.kind == "source") changed_sources_.insert(finding.object);
    check_fingerprint();
    check_plan();
    check_matrices();
    collector_.gather(report_);
  }

 private:
  /// A finding that all ranks know of.
  void find(std::string_view kind, std::string_view file, std::string_view object,
            std::string_view text) {
    collector_.item(file, object, [&] { collector_.find(kind, file, object, text); });
  }

  void read_the_manifest() {
    try {
      manifest_ = read_manifest(run_);
      if (!manifest_) find("missing", kManifest, "", "it is not there");
    } catch (const ReadError&) {
      throw;
    } catch (const Error& error) {
      find("unreadable", kManifest, "", error.what());
    }
    if (!manifest_) return;
    recorded_ = recorded_source(*manifest_);
    for (const auto& [key, value] : manifest_->configuration)
      if (key == "recipe") recipe_ = value;
  }

  /// The tensors are those that the run read.
  void check_sources() {
    std::set<std::pair<std::string, std::string>> seen;
    const Checkpoint& checkpoint = files_->checkpoint;
    for (const CompletePart& part : manifest_ ? manifest_->complete : std::vector<CompletePart>())
      for (const auto& source : part.sources) {
        if (!seen.insert(source).second) continue;
        const std::string& name = source.first;
        collector_.item(kCheckpoint, name, [&] {
          if (!checkpoint.has(name))
            return collector_.find("source", kCheckpoint, name, "there is no such tensor");
          collector_.count_tensor(checkpoint.info(name).bytes);
          if (checkpoint.checksum(name) != source.second)
            collector_.find("source", kCheckpoint, name, "it is not what the run read (checksum)");
        });
      }
    collector_.gather(report_);
  }

  void check_fingerprint() {
    if (!manifest_ || !changed_sources_.empty()) return;
    for (const auto& [key, value] : manifest_->fingerprint)
      if (key == "model" && value != files_->checkpoint.fingerprint())
        find("source", kCheckpoint, "",
             "config.json, or names, shapes or places of tensors, are not those that the run read");
  }

  /// What the recipe says is what the manifest lists, once each.
  void check_plan() {
    if (!manifest_) return;
    std::set<Index> layers;
    for (const CompletePart& part : manifest_->complete) {
      layers.insert(part.layer);
      for (const std::string& name : part.matrices) {
        if (!linears_.contains(name))
          find("extra", kManifest, name, "the model has no such linear");
        else if (!planned_.emplace(name, Assignment{}).second)
          find("twice", kManifest, name, "it is listed twice");
      }
    }
    for (Index layer = 0; layer <= manifest_->layers; ++layer)
      if (!layers.contains(layer))
        find("missing", kManifest, layer == manifest_->layers ? "head" : str("layer ", layer),
             "it is not complete: start `quantize` again");
    if (!recipe_) return;
    try {
      const Assignments all = assign(parse_recipe(*recipe_, std::string(kManifest)), files_->model);
      for (const auto& [name, linear] : linears_) {
        const Assignment& one = all.of(*linear);
        const auto found = planned_.find(name);
        if (found != planned_.end()) found->second = one;
        if (found != planned_.end() && one.method == Method::copy)
          find("extra", kManifest, name, "it was quantized, but the recipe leaves it as it is");
        if (found == planned_.end() && one.method != Method::copy &&
            layers.contains(linear->layer < 0 ? manifest_->layers : linear->layer))
          find("missing", kManifest, name, "the recipe quantizes it, but it is not listed");
      }
    } catch (const Error& error) {
      find("unreadable", kManifest, "recipe", error.what());
    }
  }

  void check_matrices() {
    if (!file_exists(run_.model()))
      return find("missing", kModel, "", "it is not there: `aq-dist merge` makes it of the shards");
    std::optional<MatrixReader> reader;
    try {
      reader.emplace(MatrixReader::open_unchecked(run_.model()));
    } catch (const ReadError&) {
      throw;
    } catch (const Error& error) {
      return find("unreadable", kModel, "", error.what());
    }
    for (const std::string& name : reader->names()) {
      if (!manifest_ && linears_.contains(name)) planned_.emplace(name, Assignment{});
      if (!planned_.contains(name)) find("extra", kModel, name, "it was not planned");
    }
    collector_.item(kModel, "", [&] { check_origin(*reader); });
    read_the_log();
    for (const LinearSpec* linear : all_linears(files_->model)) {
      if (!planned_.contains(linear->name)) continue;
      collector_.item(kModel, linear->name, [&] { check_matrix(*reader, *linear); });
    }
  }

  /// What the file says it is made of.
  void check_origin(const MatrixReader& reader) {
    if (!manifest_) return;
    for (const auto& [key, value] : manifest_->fingerprint)
      if (const std::string there = reader.attribute(key); there != value)
        return collector_.find(
            "foreign", kModel, key,
            str("it is of another run: '", there, "', '", value, "' in the manifest"));
  }

  void check_matrix(const MatrixReader& reader, const LinearSpec& linear) {
    const std::string& name = linear.name;
    if (!reader.has(name)) return collector_.find("missing", kModel, name, "it is not there");
    const UncheckedMatrix stored = reader.read_unchecked(name);
    const QuantizedMatrix& m = stored.named.matrix;
    collector_.count_bytes(stored_bits(m.scheme, m.rows, m.columns) / 8);
    if (const std::string problem = plan_problem(stored.named, linear); !problem.empty())
      return collector_.find("shape", kModel, name, problem);
    Known known{.problem = problem_of(m), .changed = stored.intact ? "" : "its data or attributes"};
    const Json stats =
        parse_json(stored.named.stats_json, {ErrorKind::input, "read the statistics", name});
    if (const auto error = stats.find("weight_error"); error != stats.end() && error->is_number())
      known.logged = error->get<double>();
    collector_.count_matrix(known.logged.has_value());
    if (const Problem problem = judged(form_of(m), linear, known))
      return collector_.find(problem.kind, kModel, name, problem.text);
    check_log(name, logged_fields(m, stats));
  }

  /// Of a matrix whose source changed only what the source has no part in.
  Problem judged(const MatrixForm& form, const LinearSpec& linear, const Known& known) {
    for (const std::string& tensor : tensors_of(files_->model, linear))
      if (changed_sources_.contains(tensor)) return judge_alone(known);
    collector_.count_bytes(static_cast<Index>(stored_weight_bytes(*files_, linear) *
                                              static_cast<double>(linear.rows * linear.columns)));
    return judge(form, read_weight_rows(files_->checkpoint, files_->model, linear, 0, linear.rows),
                 known);
  }

  std::string plan_problem(const NamedMatrix& stored, const LinearSpec& linear) const {
    const QuantizedMatrix& m = stored.matrix;
    if (m.rows != linear.rows || m.columns != linear.columns)
      return str("it is [", m.rows, ", ", m.columns, "], not [", linear.rows, ", ", linear.columns,
                 "]");
    const Assignment& plan = planned_.at(linear.name);
    if (plan.method == Method::copy) return {};  // not known
    const auto text = [](const std::optional<Scheme>& scheme) {
      return scheme ? scheme_to_json(*scheme) : std::string("none");
    };
    if (m.scheme != plan.scheme)
      return str("its scheme is ", text(m.scheme), ", planned was ", text(plan.scheme));
    if (stored.activation != plan.activation)
      return str("its inputs are rounded to ", text(stored.activation), ", planned was ",
                 text(plan.activation));
    return {};
  }

  void read_the_log() {
    const std::optional<std::string> text = text_of(run_.log());
    if (!text) return find("missing", kLog, "", "it is not there: `aq-dist merge` writes it again");
    log_.emplace(*text);
    if (log_->columns.empty()) {
      log_.reset();
      return find("log", kLog, "", "its first line does not name the columns of a log");
    }
    if (log_->is_cut) find("log", kLog, "", "its last line is cut off");
    for (const std::string& name : log_->repeated) find("twice", kLog, name, "it has two rows");
    for (const auto& [name, row] : log_->rows)
      if (!planned_.contains(name)) find("extra", kLog, name, "no such matrix was planned");
  }

  /// The row says what is stored with the matrix.
  void check_log(const std::string& name, const Json& expected) {
    if (!log_) return;
    const std::vector<std::string>& columns = log_->columns;
    const auto found = log_->rows.find(name);
    if (found == log_->rows.end()) return collector_.find("log", kLog, name, "it has no row");
    const std::vector<std::string>& row = found->second;
    if (row.size() != columns.size())
      return collector_.find("log", kLog, name,
                             str("its row has ", row.size(), " fields, not ", columns.size()));
    for (std::size_t c = 1; c < columns.size(); ++c) {
      const auto value = expected.find(columns[c]);
      const bool is_known = value != expected.end();
      if (is_known ? says(row[c], *value) : columns[c] == "weight_error" && row[c].empty())
        continue;
      return collector_.find("log", kLog, name,
                             str(columns[c], " is '", row[c], "', but ",
                                 is_known ? value->dump() : "nothing", " in model.h5"));
    }
  }

  RunDirectory run_;
  Collector collector_;
  VerifyReport& report_;
  std::optional<Manifest> manifest_;
  SourceChoice recorded_;
  std::optional<std::string> recipe_;
  std::optional<ModelFiles> files_;
  std::map<std::string, const LinearSpec*> linears_;
  std::map<std::string, Assignment> planned_;
  std::set<std::string> changed_sources_;
  std::optional<Log> log_;
};

}  // namespace

void verify_run(const VerifyOptions& options, Communicator& comm, VerifyReport& report) {
  RunCheck(options, comm, report).check();
}

}  // namespace aq
