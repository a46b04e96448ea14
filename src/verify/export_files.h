#pragma once
/// The files of an export as they lie there.

#include <map>

#include "aq/core/json.h"
#include "aq/io/stored_file.h"
#include "verify/collect.h"
#include "verify/layout.h"

namespace aq {

/// aq-dist-manifest.json.
struct ExportManifest {
  bool trusted = false;  ///< it is what the export wrote
  std::string problem;   ///< why it is not
  SourceChoice source;
  std::string format, checkpoint;
  PlannedMatrices matrices;
  struct Tensor {
    std::string file, checksum;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, Index> shards;       ///< number of tensors in each safetensors file
  std::map<std::string, std::string> files;  ///< checksums by name
};
ExportManifest read_export_manifest(const std::filesystem::path& directory);

/// A tensor in one of the files.
struct StoredPlace {
  std::string file;
  RawTensor tensor;
};

/// The safetensors files of a directory, whatever an index says.
class WeightFiles {
 public:
  explicit WeightFiles(const std::filesystem::path& directory);

  const std::map<std::string, std::vector<StoredPlace>>& places() const { return places_; }
  /// Files that cannot be understood, and why.
  const std::map<std::string, std::string>& damaged() const { return damaged_; }
  Index count() const { return std::ssize(files_) + std::ssize(damaged_); }
  bool is_readable(const std::string& file) const { return files_.contains(file); }
  const StoredPlace* find(const std::string& name) const;
  std::vector<std::byte> read(const StoredPlace& place, Index first, Index bytes) const;
  std::string checksum(const StoredPlace& place) const;

 private:
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, std::string> damaged_;
  std::map<std::string, std::vector<StoredPlace>> places_;
};

/// What is wrong with an object of a text file.
struct TextProblem {
  std::string object, text;
};
/// weight_map names the file of every tensor, and total_size is the size of all. `expected`: names
/// that must be somewhere, for which others will ask; and the bytes of all of them, if known.
std::vector<TextProblem> index_problems(const std::string& text, const WeightFiles& files,
                                        const std::map<std::string, Index>& expected);

}  // namespace aq
