#pragma once
/// What threads keep and take in a solver on CPUs, for those who plan memory.

#include <algorithm>

#include "aq/quant/solver.h"

namespace aq {

/// Bytes that a thread keeps to add up to `tokens` tokens to a sum, with the widest kernel.
Index hessian_workspace_bytes(Index columns, Index tokens);

/// Sums of at least so many columns are made one at a time, each by all threads: a thread with one
/// of its own would have a gigabyte.
inline constexpr Index kWideSum = 8192;

/// Bytes that one thread takes to factor a sum where float32 is enough, beside the factor.
constexpr Index factor_workspace_bytes(Index columns) {
  return columns * columns * static_cast<Index>(sizeof(float)) / 2;
}
/// A thread keeps them from one factor to the next where they are at most so many.
inline constexpr Index kKeptWorkspaceBytes = Index{64} << 20;

/// Bytes that a thread keeps to solve tiles of so many columns, of which `group` share a grid:
/// weights, levels and errors of a tile; levels, their products and what a moved scale changes, the
/// first two of all its rows at one time where these are `coupled` by an output factor.
constexpr Index solve_workspace_bytes(Index columns, Index group, bool coupled) {
  const Index of_group = coupled ? std::min(2 * columns, 3 * group) : std::min(columns, 2 * group);
  return (3 * columns + of_group) * kRowTile * static_cast<Index>(sizeof(float));
}

}  // namespace aq
