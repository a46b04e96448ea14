#include "export/manifest.h"

#include "aq/core/hash.h"
#include "aq/core/json.h"
#include "aq/io/stored_file.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

OrderedJson scheme_json(const Scheme& scheme) {
  return OrderedJson::parse(scheme_to_json(scheme));
}

OrderedJson matrix_json(const ExportSource& source, const StoredMatrix& matrix) {
  OrderedJson json{{"scheme", scheme_json(matrix.scheme)}};
  if (matrix.activation) json["activation"] = scheme_json(*matrix.activation);
  const Json stats = Json::parse(source.matrices.stats(matrix.name));
  if (const auto error = stats.find("weight_error"); error != stats.end())
    json["weight_error"] = *error;
  return json;
}

/// Checksums of all files below the directory but the weights, by name.
Json files_json(const fs::path& directory) {
  Json files = Json::object();
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file() && entry.path().extension() != ".safetensors")
      files[entry.path().lexically_relative(directory).string()] = file_checksum(entry.path());
  return files;
}

}  // namespace

std::string export_manifest(const ExportOrigin& origin, const ExportSource& source,
                            const std::vector<StoredMatrix>& matrices,
                            const std::vector<WrittenShard>& shards, const fs::path& directory) {
  OrderedJson json{{"version", 1},
                   {"format", origin.format},
                   {"model", origin.directory},
                   {"architecture", origin.architecture},
                   {"assume_unused", origin.assume_unused},
                   {"checkpoint", source.files.checkpoint.fingerprint()},
                   {"matrices", OrderedJson::object()},
                   {"tensors", OrderedJson::object()},
                   {"files", files_json(directory)}};
  for (const StoredMatrix& matrix : matrices)
    json["matrices"][matrix.name] = matrix_json(source, matrix);
  for (const WrittenShard& shard : shards) {
    OrderedJson& tensors = json["tensors"][shard.name] = OrderedJson::object();
    for (const auto& [name, checksum] : shard.checksums) tensors[name] = checksum;
  }
  json["checksum"] = hash_text(xxh64(json.dump()));
  return json.dump(1) + "\n";
}

}  // namespace aq
