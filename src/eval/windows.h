#pragma once
/// Windows of a token file.

#include "aq/io/tokens.h"

namespace aq {

/// Pieces of the file's rows, each at least two tokens long.
struct Windows {
  std::vector<Index> row, begin, length;
  Index count() const { return static_cast<Index>(row.size()); }
  /// Predicted tokens of each: all but the first.
  std::vector<Index> predictions() const;
};

/// Cuts rows of these lengths into windows of `window` tokens, the shorter tail included; at most
/// `most` of them, all when that is 0.
Windows cut_windows(const std::vector<Index>& lengths, Index window, Index most);

/// The tokens of windows [first, first + count).
Sequences tokens_of(const Windows& windows, const Sequences& rows, Index first, Index count);

}  // namespace aq
