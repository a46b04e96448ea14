#include "verify/export_files.h"

#include "aq/core/hash.h"
#include "aq/io/matrix_file.h"
#include "aq/io/read_error.h"
#include "verify/source.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

constexpr const char* kName = "aq-dist-manifest.json";

PlannedMatrix planned_matrix(const OrderedJson& json, const std::string& name) {
  PlannedMatrix matrix{scheme_from_json(json.at("scheme").dump(), name)};
  if (json.contains("activation"))
    matrix.activation = scheme_from_json(json.at("activation").dump(), name);
  if (json.contains("weight_error")) matrix.logged = json.at("weight_error").get<double>();
  return matrix;
}

void read_into(const OrderedJson& json, ExportManifest& manifest) {
  manifest.source = recorded_source(json.at("model"), json.at("architecture"),
                                    json.at("assume_unused").get<std::string>());
  for (const auto& [key, text] :
       {std::pair("format", &manifest.format), {"checkpoint", &manifest.checkpoint}})
    *text = json.at(key).get<std::string>();
  for (const auto& [name, matrix] : json.at("matrices").items())
    manifest.matrices[name] = planned_matrix(matrix, name);
  for (const auto& [file, tensors] : json.at("tensors").items()) {
    manifest.shards[file] = static_cast<Index>(tensors.size());
    for (const auto& [name, checksum] : tensors.items())
      manifest.tensors[name] = {file, checksum.get<std::string>()};
  }
  manifest.files = json.at("files").get<decltype(manifest.files)>();
}

/// The last member is the hash of all others.
bool is_as_written(const std::string& text, OrderedJson json) {
  if (text != json.dump(1) + "\n" || !json.contains("checksum")) return false;
  const OrderedJson checksum = json.at("checksum");
  json.erase("checksum");
  return checksum == hash_text(xxh64(json.dump()));
}

}  // namespace

ExportManifest read_export_manifest(const fs::path& directory) {
  ExportManifest manifest;
  const std::optional<std::string> text = text_of(directory / kName);
  if (!text) {
    manifest.problem = "it is not there";
    return manifest;
  }
  try {
    const auto json = parse_json<OrderedJson>(*text, {ErrorKind::input, "verify", kName});
    manifest.trusted = is_as_written(*text, json);
    if (!manifest.trusted) manifest.problem = "it is not as the export wrote it (checksum)";
    manifest.source = recorded_source(json.at("model"), json.at("architecture"), "");
    if (!manifest.trusted) return manifest;
    ExportManifest whole = manifest;
    read_into(json, whole);
    return whole;
  } catch (const Error& error) {
    manifest.trusted = false;
    manifest.problem = error.what();
  } catch (const Json::exception& error) {
    manifest.trusted = false;
    manifest.problem = error.what();
  }
  return manifest;
}

WeightFiles::WeightFiles(const fs::path& directory) {
  std::map<std::string, fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors")
      paths[entry.path().filename().string()] = entry.path();
  for (const auto& [name, path] : paths) {
    try {
      const auto file = files_.emplace(name, SafetensorsFile(path)).first;
      for (const RawTensor& tensor : file->second.tensors())
        places_[tensor.name].push_back({name, tensor});
    } catch (const ReadError&) {
      throw;
    } catch (const Error& error) {
      damaged_[name] = error.what();
    }
  }
}

const StoredPlace* WeightFiles::find(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &found->second.front();
}

std::vector<std::byte> WeightFiles::read(const StoredPlace& place, Index first, Index bytes) const {
  std::vector<std::byte> out(bytes);
  files_.at(place.file).read(place.tensor, first, out);
  return out;
}

std::string WeightFiles::checksum(const StoredPlace& place) const {
  return files_.at(place.file).checksum(place.tensor);
}

std::vector<TextProblem> index_problems(const std::string& text, const WeightFiles& files,
                                        const std::map<std::string, Index>& expected) {
  Json index;
  try {
    index = parse_json(text, {ErrorKind::input, "verify", "the index"});
  } catch (const Error& error) {
    return {{"", error.what()}};
  }
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) return {{"weight_map", "it is no object"}};
  std::vector<TextProblem> problems;
  for (const auto& [name, value] : map->items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : value.dump();
    const auto found = files.places().find(name);
    if (found == files.places().end()) {
      if (!expected.contains(name) && !files.damaged().contains(file))
        problems.push_back({name, str("it is said to be in ", file, ", but no file holds it")});
      continue;
    }
    if (std::ranges::find(found->second, file, &StoredPlace::file) == found->second.end())
      problems.push_back(
          {name, str("it is said to be in ", file, ", but it is in ", found->second.front().file)});
  }
  Index stored = 0, planned = 0;
  for (const auto& [name, places] : files.places()) {
    stored += places.front().tensor.bytes;
    if (!map->contains(name))
      problems.push_back({name, str("it is in ", places.front().file, ", but not in weight_map")});
  }
  for (const auto& [name, bytes] : expected) planned += bytes;
  const auto metadata = index.find("metadata");
  const bool is_object = metadata != index.end() && metadata->is_object();
  const Json size = is_object ? metadata->value("total_size", Json()) : Json();
  if (size != stored && size != planned)
    problems.push_back(
        {"metadata.total_size", str("it is ", size.dump(), ", but all tensors take ", stored)});
  return problems;
}

}  // namespace aq
