#pragma once
/// Writes safetensors files, https://huggingface.co/docs/safetensors (format).

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "aq/core/dtype.h"

namespace aq {

/// A tensor as a header describes it.
struct TensorEntry {
  std::string name;
  std::string dtype;  ///< as safetensors writes it: "BF16", "I32", "F8_E4M3"
  std::vector<Index> shape;

  Index bytes() const;
  bool operator==(const TensorEntry&) const = default;
};

/// One file whose tensors are told first; the bytes of each come in order. It is written under a
/// partial name and appears with close(); otherwise it is removed. Equal tensors give equal bytes.
class SafetensorsWriter {
 public:
  /// @pre names differ, dtypes are known
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorEntry> tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// The next bytes of a tensor.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// The tensors as they lie in the file, each with its checksum (Checkpoint::checksum).
  /// @pre every byte was written
  std::vector<std::pair<std::string, std::string>> close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A whole file at once.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;
  std::vector<std::byte> bytes;
};
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<TensorToWrite>& tensors);

}  // namespace aq
