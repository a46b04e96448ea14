#pragma once
/// A Hugging Face checkpoint directory: config.json and safetensors files, read with pread.

#include <filesystem>
#include <map>
#include <memory>
#include <span>
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

/// A tensor of a dtype that safetensors knows and this program cannot read yet.
struct OtherTensor {
  std::string dtype;  ///< as written: "F8_E8M0"
  std::vector<Index> shape;
  Index file = 0;  ///< index into Checkpoint::files()
  Index offset = 0;
  Index bytes = 0;
};

/// A tensor of whatever dtype, to be carried over as it is.
struct RawTensor {
  std::string name;
  std::string dtype;  ///< as written
  std::vector<Index> shape;
  Index file = 0, offset = 0, bytes = 0;
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
  /// All readable tensors by name.
  const std::map<std::string, TensorInfo>& tensors() const;
  /// The other tensors by name; info() and the reads name their dtype as not supported yet.
  const std::map<std::string, OtherTensor>& other_tensors() const;
  /// Whether the checkpoint holds the tensor, of whatever dtype.
  bool has(const std::string& name) const;
  /// Throws Error{input} when there is no such tensor, or when its dtype cannot be read.
  const TensorInfo& info(const std::string& name) const;

  /// The tensor as floats; throws Error{input} unless its shape is `shape`, or when the file
  /// shrank, or when a value is NaN or infinite (naming tensor and position).
  std::vector<float> read(const std::string& name, const std::vector<Index>& shape) const;
  /// A two-dimensional tensor `[rows, columns]`, converted to float.
  Matrix read_matrix(const std::string& name, Index rows, Index columns) const;
  /// Rows [begin, begin + count) of it.
  Matrix read_rows(const std::string& name, Index rows, Index columns, Index begin,
                   Index count) const;

  /// Elements [first, first + count) of a tensor in the order of storage, as floats (a U8 as its
  /// number); the same checks.
  void read_elements(const std::string& name, const std::vector<Index>& shape, Index first,
                     Index count, float* out) const;
  /// Bytes [first, first + out.size()) of a U8 tensor.
  void read_bytes(const std::string& name, const std::vector<Index>& shape, Index first,
                  std::span<std::uint8_t> out) const;
  /// One of raw_tensors(). Throws Error{input} when there is no such tensor.
  RawTensor raw(const std::string& name) const;
  /// All tensors in the order in which they are stored.
  std::vector<RawTensor> raw_tensors() const;
  /// Bytes [first, first + out.size()) of one of them.
  void read_raw(const RawTensor& tensor, Index first, std::span<std::byte> out) const;
  /// Whether two tensors have the same dtype, shape and bytes. Reads up to the first difference.
  bool same(const std::string& name, const std::string& other) const;

  /// Checksum of all bytes of a tensor as they are stored, as hex text; they are read for it.
  std::string checksum(const std::string& name) const;
  /// Name, and size and time of last change, of each file as it was when it was opened.
  std::vector<std::pair<std::string, std::string>> file_states() const;
  /// Throws Error{input} naming a file that was written to since it was opened.
  void check_unchanged() const;

  /// Identity of the checkpoint as hex text: a 64-bit hash over config.json, names, dtypes, shapes
  /// and places of the tensors, file sizes, and a sample of the data (the middle of up to 64
  /// tensors). Paths and modification times are not part of it. What it does not sample is compared
  /// by checksum().
  std::string fingerprint() const;

 private:
  struct State;
  explicit Checkpoint(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace aq
