#pragma once
/// What operations on tensors allocate for themselves, for those who plan memory and work. Needs
/// no LibTorch.

#include <algorithm>

#include "aq/core/index.h"

namespace aq::runtime {

/// Queries whose scores attention computes and keeps at one time.
inline constexpr Index kQueryTile = 256;

/// Memory that attention() takes while it works on a sequence of `tokens`.
constexpr Index attention_scratch_bytes(Index tokens) {
  return static_cast<Index>(sizeof(float)) * std::min(tokens, kQueryTile) * tokens;
}

}  // namespace aq::runtime
