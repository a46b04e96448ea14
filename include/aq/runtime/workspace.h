#pragma once
/// What operations on tensors allocate for themselves, for those who plan memory and work. Needs
/// no LibTorch.

#include <algorithm>

#include "aq/core/index.h"

namespace aq::runtime {

/// Heads of latent attention that are made and attended to at one time.
inline constexpr Index kLatentHeads = 16;
/// Queries whose scores attention computes and keeps at one time.
inline constexpr Index kQueryTile = 256;

/// Tokens of an expert, or of a sequence, that are multiplied at one time: more would be no faster,
/// and what is in work would grow with them.
inline constexpr Index kProductRows = 1024;

/// Memory that attention() takes while it works on a sequence of `tokens`.
constexpr Index attention_scratch_bytes(Index tokens) {
  return static_cast<Index>(sizeof(float)) * std::min(tokens, kQueryTile) * tokens;
}

}  // namespace aq::runtime
