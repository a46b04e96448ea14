#include <map>

#include "aq/io/matrix_file.h"
#include "aq/io/run_directory.h"

namespace aq {
namespace {

constexpr std::string_view kOperation = "merge the shards";

/// Copies the matrices of one part in the order of the model.
Index merge_part(const RunDirectory& run, const CompletePart& part, MatrixWriter& writer) {
  std::vector<MatrixReader> shards;
  std::map<std::string, std::size_t> shard_of;
  for (const std::string& name : part.shards) {
    shards.emplace_back(run.shards() / name);
    for (const std::string& matrix : shards.back().names())
      shard_of.emplace(matrix, shards.size() - 1);
  }
  for (const std::string& name : part.matrices) {
    const auto found = shard_of.find(name);
    if (found == shard_of.end())
      throw Error(ErrorKind::input, kOperation, run.shards().string(),
                  str("no shard of layer ", part.layer, " holds ", name),
                  "run quantize again: it redoes what is missing");
    writer.write(shards[found->second].read(name));
  }
  return static_cast<Index>(part.matrices.size());
}

}  // namespace

Index merge_shards(const RunDirectory& run) {
  const auto manifest = read_manifest(run);
  if (!manifest)
    throw Error(ErrorKind::input, kOperation, run.root.string(),
                "it is not the directory of a run: there is no manifest.json");
  std::map<Index, const CompletePart*> parts;
  for (const CompletePart& part : manifest->complete) parts[part.layer] = &part;
  for (Index layer = 0; layer <= manifest->layers; ++layer)
    if (!parts.contains(layer))
      throw Error(ErrorKind::input, kOperation, run.root.string(),
                  layer == manifest->layers
                      ? std::string("the head is not complete")
                      : str("layer ", layer, " of ", manifest->layers, " is not complete"),
                  "run quantize again: it resumes");
  MatrixWriter writer(run.model());
  writer.set_attribute("format", "aq-dist matrices 1");
  for (const auto& [key, value] : manifest->fingerprint) writer.set_attribute(key, value);
  Index count = 0;
  for (const auto& [layer, part] : parts) count += merge_part(run, *part, writer);
  writer.close();
  std::error_code ignored;
  std::filesystem::remove(run.previous_model(), ignored);
  return count;
}

}  // namespace aq
