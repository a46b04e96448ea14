#pragma once
/// Cholesky factorisation with the same bits on any number of threads.

#include "aq/core/index.h"

namespace aq {

/// A = L Lᵀ in place, A and L in the lower triangle of `[n, n]` row-major; the rest is not touched.
/// Left-looking by tiles of fixed size, one thread a tile (parallel_for).
/// @return false where a pivot is not a positive number: A is not positive definite
bool cholesky(float* a, Index n);
bool cholesky(double* a, Index n);

}  // namespace aq
