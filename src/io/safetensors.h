#pragma once
/// The header of a safetensors file: 8 bytes of length, a JSON object, then the data.
/// https://huggingface.co/docs/safetensors (format), checked as strictly as the reference library.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/posix_file.h"

namespace aq {

/// A tensor as the header describes it, with offsets into the file.
struct StoredTensor {
  std::string name;
  std::string dtype;  ///< as written: "BF16", "F8_E4M3", ...
  std::vector<Index> shape;
  Index offset = 0;
  Index bytes = 0;
};

/// Bits of one element; nothing for a dtype that safetensors does not know.
std::optional<Index> safetensors_element_bits(std::string_view dtype);

/// All tensors by offset. Header length, JSON, dtypes, shapes, offsets, overlaps, holes and the
/// length of the file are checked: Error{input} names the file, the tensor and the reason.
std::vector<StoredTensor> read_safetensors_header(const PosixFile& file);

}  // namespace aq
