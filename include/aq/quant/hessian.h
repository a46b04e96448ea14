#pragma once
/// Routing-weighted Hessian sums (MoEQuant; GPTQ, Frantar et al. 2022, eq. 1 without the mean):
/// H = Σ_t s_t^p x_t x_tᵀ, kept as raw sums with columns reversed, so that the factorisation from
/// the last column back is a plain Cholesky.

#include <span>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/core/weighted_sum.h"

namespace aq {

/// The triangle of an n x n sum as column panels of at most kPanel columns: panel j holds columns
/// [j*kPanel, ...) and rows from the panel's first column to n, row-major inside the panel
/// (leading dimension = the panel's width), panels one after the other. Reversed index: element
/// (r, c) stands for input channels (n-1-r, n-1-c). Only r >= c is meaningful.
inline constexpr Index kHessianPanel = 256;
/// Floats of the layout above.
Index hessian_size(Index columns);

/// The full symmetric matrix in natural order, `[columns, columns]`, raw sum. For tests and files.
Matrix hessian_natural(const WeightedSum& sum, Index columns);

/// The upper triangle of it row by row, `[columns * (columns + 1) / 2]`, as it is kept in files;
/// empty for a sum over no token.
std::vector<float> hessian_upper(const WeightedSum& sum, Index columns);
/// WeightedSum::values from such a triangle: the inverse. What the layout does not use is 0.
FloatArray hessian_values(std::span<const float> upper, Index columns);

}  // namespace aq
