#pragma once
/// Single files of a checkpoint directory, as they lie there: no index, no model, no opinion.

#include <memory>

#include "aq/io/checkpoint.h"

namespace aq {

/// One safetensors file. Throws Error{input} when its header cannot be understood.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  /// In the order in which they are stored; RawTensor::file is 0.
  const std::vector<RawTensor>& tensors() const;
  /// Bytes [first, first + out.size()) of one of them.
  void read(const RawTensor& tensor, Index first, std::span<std::byte> out) const;
  /// As Checkpoint::checksum.
  std::string checksum(const RawTensor& tensor) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Checksum of a whole file, in the manner of Checkpoint::checksum.
std::string file_checksum(const std::filesystem::path& path);
/// Whether two files hold the same bytes.
bool same_files(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace aq
