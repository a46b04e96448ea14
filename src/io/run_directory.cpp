#include "aq/io/run_directory.h"

#include <iomanip>
#include <sstream>

#include "aq/core/json.h"
#include "aq/io/file.h"

namespace aq {
namespace {

constexpr Index kManifestVersion = 1;
constexpr Index kMostLayers = Index{1} << 20;
// Limits of files. The manifest names every matrix: 70,000 of them are 5 MB.
constexpr Index kManifestBytes = Index{1} << 28;
constexpr Index kStatusBytes = Index{1} << 20;
constexpr std::size_t kFailureBytes = 4096;  // one block: it is rewritten in place

/// Parses and converts; any surprise becomes one Error{input} that names the file.
template <class Convert>
auto read_json(const std::filesystem::path& path, const char* operation, Index limit,
               const Convert& convert) {
  const JsonPlace place{ErrorKind::input, operation, path.native(),
                        "the file is damaged; remove the run directory to start afresh"};
  const auto json = parse_json<OrderedJson>(read_text_file(path, limit), place);
  try {
    return convert(json);
  } catch (const Json::exception& error) {
    place.fail(std::string(error.what()).substr(0, 300));
  }
}

/// A whole number in [0, most]; a float of any size is none.
Index whole_number(const RunDirectory& run, const OrderedJson& json, const char* key, Index most) {
  const OrderedJson& value = json.at(key);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(most))
    throw Error(ErrorKind::input, "read the manifest", run.manifest().string(),
                str("'", key, "' is no whole number in [0, ", most, "]"));
  return value.get<Index>();
}

/// An array of [name, value], which keeps thousands of them cheap; empty where there is none.
std::vector<std::pair<std::string, std::string>> pairs_of(const OrderedJson& json,
                                                          const char* key) {
  if (!json.contains(key)) return {};
  return json.at(key).get<std::vector<std::pair<std::string, std::string>>>();
}

void check_plain(const RunDirectory& run, const std::vector<std::string>& files) {
  for (const std::string& file : files)
    if (file.find('/') != std::string::npos)
      throw Error(ErrorKind::input, "read the manifest", run.manifest().string(),
                  str("'", file, "' is no plain file name"));
}

}  // namespace

std::string RunDirectory::shard_name(Index layer, int rank) {
  std::ostringstream name;
  name << "layer-" << std::setfill('0') << std::setw(4) << layer << ".rank-" << std::setw(4) << rank
       << ".h5";
  return name.str();
}

std::string field_of(const std::vector<std::pair<std::string, std::string>>& fields,
                     std::string_view key) {
  const auto found = std::ranges::find_if(fields, [&](const auto& f) { return f.first == key; });
  return found == fields.end() ? "" : found->second;
}

std::optional<Manifest> read_manifest(const RunDirectory& run) {
  if (!file_exists(run.manifest())) return std::nullopt;
  return read_json(
      run.manifest(), "read the manifest", kManifestBytes, [&](const OrderedJson& json) {
        if (const Index version = whole_number(run, json, "version", Index{1} << 30);
            version != kManifestVersion)
          throw Error(ErrorKind::input, "read the manifest", run.manifest().string(),
                      str("version ", version, " is not ", kManifestVersion),
                      "the run was made by another version of aq-dist");
        Manifest manifest;
        for (const auto& [key, value] : json.at("fingerprint").items())
          manifest.fingerprint.emplace_back(key, value.get<std::string>());
        manifest.files = pairs_of(json, "files");
        manifest.layers = whole_number(run, json, "layers", kMostLayers);
        for (const OrderedJson& part : json.at("complete")) {
          manifest.complete.push_back({whole_number(run, part, "layer", kMostLayers),
                                       part.at("shards").get<std::vector<std::string>>(),
                                       part.at("matrices").get<std::vector<std::string>>()});
          CompletePart& complete = manifest.complete.back();
          check_plain(run, complete.shards);
          complete.sources = pairs_of(part, "sources");
          if (part.contains("activations")) {
            complete.activations = part.at("activations").get<std::vector<std::string>>();
            check_plain(run, complete.activations);
          }
          if (!part.contains("hessians")) continue;
          complete.hessians = part.at("hessians").get<std::vector<std::string>>();
          check_plain(run, *complete.hessians);
        }
        for (const auto& [key, value] : json.at("configuration").items())
          manifest.configuration.emplace_back(key, value.get<std::string>());
        return manifest;
      });
}

void write_manifest(const RunDirectory& run, const Manifest& manifest) {
  OrderedJson json;
  json["program"] = "aq-dist";
  json["version"] = kManifestVersion;
  for (const auto& [key, value] : manifest.fingerprint) json["fingerprint"][key] = value;
  for (const auto& [key, value] : manifest.configuration) json["configuration"][key] = value;
  json["files"] = manifest.files;
  json["layers"] = manifest.layers;
  json["complete"] = OrderedJson::array();
  for (const CompletePart& part : manifest.complete) {
    json["complete"].push_back(
        {{"layer", part.layer}, {"shards", part.shards}, {"matrices", part.matrices}});
    if (part.hessians) json["complete"].back()["hessians"] = *part.hessians;
    if (!part.activations.empty()) json["complete"].back()["activations"] = part.activations;
    json["complete"].back()["sources"] = part.sources;
  }
  write_text_file(run.manifest(), json.dump(1) + "\n");
}

std::string first_difference(const Manifest& run, const Manifest& now) {
  for (const auto& [key, value] : now.fingerprint) {
    std::string before = "absent";
    for (const auto& [run_key, run_value] : run.fingerprint)
      if (run_key == key) before = run_value;
    if (before != value) return str(key, ": '", before, "' in the run, '", value, "' now");
  }
  return {};
}

namespace {

/// Messages name files, whose names need not be valid UTF-8.
std::string json_text(const OrderedJson& json) {
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace

void write_status(const RunDirectory& run, const RunStatus& status) {
  const OrderedJson json{{"state", status.state},
                         {"message", status.message},
                         {"layer", status.layer},
                         {"layers", status.layers},
                         {"elapsed_seconds", status.elapsed_seconds},
                         {"remaining_seconds", status.remaining_seconds},
                         {"ranks", status.ranks},
                         {"host", status.host},
                         {"process", status.process},
                         {"updated", status.updated},
                         {"last_fallback", status.last_fallback}};
  write_text_file(run.status(), json_text(json) + "\n");
}

namespace {

RunStatus read_first_rank(const RunDirectory& run) {
  return read_json(run.status(), "read the status", kStatusBytes, [](const OrderedJson& json) {
    RunStatus status;
    status.state = json.at("state").get<std::string>();
    status.message = json.at("message").get<std::string>();
    status.layer = json.at("layer").get<Index>();
    status.layers = json.at("layers").get<Index>();
    status.elapsed_seconds = json.at("elapsed_seconds").get<double>();
    status.remaining_seconds = json.at("remaining_seconds").get<double>();
    status.ranks = json.at("ranks").get<Index>();
    status.host = json.at("host").get<std::string>();
    status.process = json.at("process").get<Index>();
    status.updated = json.at("updated").get<Index>();
    status.last_fallback = json.value("last_fallback", "");
    return status;
  });
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \n") == std::string::npos;
}

std::optional<RunFailure> read_failure(const RunDirectory& run) {
  if (!file_exists(run.failure())) return std::nullopt;
  if (is_blank(read_text_file(run.failure(), kStatusBytes))) return std::nullopt;
  return read_json(run.failure(), "read the status", kStatusBytes, [](const OrderedJson& json) {
    return RunFailure{json.at("message").get<std::string>(), json.at("state").get<std::string>(),
                      json.at("updated").get<Index>()};
  });
}

bool is_newer(const std::filesystem::path& file, const std::filesystem::path& other) {
  std::error_code error;
  const auto time = std::filesystem::last_write_time(file, error);
  if (error) return false;
  const auto before = std::filesystem::last_write_time(other, error);
  return error || time >= before;
}

/// One block, whatever the message.
std::string failure_block(RunFailure failure) {
  while (true) {
    std::string text = json_text(
        {{"state", failure.state}, {"message", failure.message}, {"updated", failure.updated}});
    if (text.size() < kFailureBytes) {
      text.resize(kFailureBytes - 1, ' ');
      return text + "\n";
    }
    failure.message.resize(failure.message.size() / 2);
  }
}

}  // namespace

RunStatus read_status(const RunDirectory& run) {
  const std::optional<RunFailure> failure = read_failure(run);
  const bool has_status = file_exists(run.status());
  if (!has_status && !failure)
    throw Error(ErrorKind::input, "read the status", run.root.string(),
                "it is not the directory of a run: there is no status.json");
  RunStatus status = has_status ? read_first_rank(run) : RunStatus{};
  // When all ranks fail, the first one speaks. Hosts have clocks of their own: file times tell.
  if (!failure || (status.state == "failed" && is_newer(run.status(), run.failure())))
    return status;
  status.state = failure->state;
  status.message = failure->message;
  status.updated = failure->updated;
  return status;
}

void write_failure(const RunDirectory& run, int rank, const RunFailure& failure) {
  if (failure.state == "died" && read_failure(run)) return;
  const std::string block = failure_block(failure);
  // Ranks that fail together write files of their own; the last one to be renamed is whole.
  const std::filesystem::path own = run.root / str("failure.rank-", rank, ".json");
  try {
    write_text_file(own, block);
    std::filesystem::rename(own, run.failure());
  } catch (const std::exception&) {  // a full disk: the block that was kept for this
    overwrite_file(run.failure(), block);
  }
}

void make_room_for_failure(const RunDirectory& run) {
  write_text_file(run.failure(), std::string(kFailureBytes - 1, ' ') + "\n");
}

void forget_failure(const RunDirectory& run) {
  std::error_code ignored;
  std::filesystem::remove(run.failure(), ignored);
}

}  // namespace aq
