#pragma once
/// How heavy the tail of a weight matrix's spectrum is.

#include "aq/core/matrix_view.h"

namespace aq {

/// Hill's estimate of the exponent of the power law that the largest eigenvalues λ of W Wᵀ follow:
/// 1 + k / Σ ln(λ_i / λ_(k+1)) over the k largest, k a tenth of them and at least 10 (PL_Alpha_Hill
/// of Zhou et al. 2023, arXiv:2312.00359, with the k of AlphaQuant). 0 where there are no two
/// eigenvalues above 0.
/// @param weight  `[rows, columns]`
double alpha_hill(MatrixView<const float> weight);

}  // namespace aq
