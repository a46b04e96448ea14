#pragma once
/// Cholesky factorisation with the same bits on any number of threads.
///
/// The lower triangle of `[n, n]` is kept as parts of `lanes` rows (the vectors of the processor's
/// kernel): part i holds columns [0, lanes * (i + 1)), each as `lanes` rows side by side. Rows
/// beyond n are zeros; what lies above the diagonal has no meaning.

#include "aq/core/index.h"

namespace aq {

/// Columns of a block, and rows that one thread works on.
inline constexpr int kFactorBlock = 128;

/// Floats before part i.
constexpr Index part_offset(Index i, Index lanes) {
  return lanes * lanes * (i * (i + 1) / 2);
}
/// Floats of all parts.
constexpr Index parts_size(Index n, Index lanes) {
  return part_offset((n + lanes - 1) / lanes, lanes);
}

/// A = L Lᵀ in place. Left-looking by blocks of fixed size, one thread a set of rows.
/// @param parts  64-byte aligned, in the lanes of tile_kernel()
/// @return false where a pivot is not a positive number: A is not positive definite
bool cholesky(float* parts, Index n);
/// The same in float64 on the lower triangle of `[n, n]` row-major.
bool cholesky(double* a, Index n);

}  // namespace aq
