#pragma once
/// A Hugging Face checkpoint directory: config.json and safetensors files, read with pread.

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "aq/core/dtype.h"
#include "aq/core/matrix_view.h"

namespace aq {

/// One tensor of a safetensors file.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;
  Index file = 0;    ///< index into Checkpoint::files()
  Index offset = 0;  ///< byte offset in the file
  Index bytes = 0;
  Index elements() const;
};

/// Opened once, read from by any thread. Header size, JSON, dtypes, shapes, offsets, overlaps and
/// file lengths are all checked when opened: Error{input} names the file, tensor and reason.
class Checkpoint {
 public:
  /// `directory` holds config.json and either model.safetensors or model.safetensors.index.json
  /// with its shards. Something that looks like a hub id gets an error that says how to download
  /// it.
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const;
  const std::string& config_json() const;
  std::filesystem::path config_path() const;
  const std::vector<std::filesystem::path>& files() const;
  /// All tensors by name.
  const std::map<std::string, TensorInfo>& tensors() const;
  bool has(const std::string& name) const;
  /// Throws Error{input} when there is no such tensor.
  const TensorInfo& info(const std::string& name) const;

  /// The tensor as floats; throws Error{input} unless its shape is `shape`, or when the file
  /// shrank, or when a value is NaN or infinite (naming tensor and position).
  std::vector<float> read(const std::string& name, const std::vector<Index>& shape) const;
  /// A two-dimensional tensor `[rows, columns]`, converted to float.
  Matrix read_matrix(const std::string& name, Index rows, Index columns) const;
  /// Rows [begin, begin + count) of it.
  Matrix read_rows(const std::string& name, Index rows, Index columns, Index begin,
                   Index count) const;

  /// SHA-256-free identity of the checkpoint: a 64-bit hash over config.json, tensor names, shapes,
  /// dtypes, offsets and file sizes and modification times are NOT part of it. Hex text.
  std::string fingerprint() const;

 private:
  struct State;
  explicit Checkpoint(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// Writes one safetensors file (for tests and export): names with shapes and raw little-endian
/// bytes.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;
  std::vector<std::byte> bytes;
};
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<TensorToWrite>& tensors);

}  // namespace aq
