#pragma once
/// Calibration and evaluation tokens: `tokens` int32 or int64 [sequences, length] and optionally
/// `lengths` (the same types, [sequences]; the rest of a row is padding), as tensors of a
/// safetensors file or as datasets (integers of any type) of an HDF5 file. The content decides
/// which it is. HDF5 files are trusted: the library may crash on one that is made to harm it.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Whole sequences, pads removed, one after the other.
struct Sequences {
  std::vector<std::int32_t> tokens;  ///< all tokens
  std::vector<Index> lengths;        ///< of each sequence, in order

  Index count() const { return static_cast<Index>(lengths.size()); }
  Index token_count() const { return static_cast<Index>(tokens.size()); }
};

/// What a token file holds; opened, checked and closed again.
struct TokenFile {
  std::filesystem::path path;
  Index sequences = 0;
  Index length = 0;
  bool has_lengths = false;

  /// Throws Error{input} naming file and field when it is missing, not integer, not 2-D or empty.
  static TokenFile open(const std::filesystem::path& path);
  /// Whether it is a safetensors file, or HDF5 with `tokens`; open() says what is wrong with it.
  static bool is_one(const std::filesystem::path& path);
  /// Rows [begin, begin + count), each cut to `max_length` tokens. Throws Error{input} for a token
  /// outside [0, vocabulary) (naming row, position and value) and for lengths outside [1, length].
  Sequences read(Index begin, Index count, Index max_length, Index vocabulary) const;
  /// 64-bit hash of the first `count` rows cut to `max_length` and their lengths, as hex text.
  std::string fingerprint(Index count, Index max_length) const;
};

}  // namespace aq
