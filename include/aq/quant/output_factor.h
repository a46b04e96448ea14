#pragma once
/// How errors of a matrix's rows count together: B = Σ g gᵀ over gradients g of a loss by the
/// matrix's outputs, the output side of the Kronecker factors of its Hessian (YAQA, Tseng et al.
/// 2025, arXiv 2505.22988; GuidedQuant, Kim et al. 2025, arXiv 2505.07004). Of B the blocks of
/// kRowTile rows on the diagonal are used, so that slices of rows stay independent.

#include "aq/quant/solver.h"

namespace aq {

/// The share of the mean diagonal that is added to a block's diagonal; of few tokens more, as
/// GptqSettings::few_tokens_damping does to Hessians.
inline constexpr double kOutputDamping = 0.3;

/// Adds Σ g gᵀ of some outputs to a sum over those of all matrices of a task.
/// @param g    `[tokens, outputs]`
/// @param sum  `[outputs, kRowTile]`: row r holds that of its tile of kRowTile rows
/// @param first_row  of these outputs in their matrix
void add_outputs(MatrixView<const float> g, Index first_row, MatrixView<float> sum);

/// B / mean(diag B) + β I of a tile.
/// @param rows   of it: `[at most kRowTile, kRowTile]`
/// @param block  receives `[kRowTile, kRowTile]`; the identity in rows beyond them, and for a tile
///   whose outputs change nothing or whose sum is not one of squares (an infinity, a damaged file)
void output_block(MatrixView<const float> rows, std::int64_t tokens, float* block);

}  // namespace aq
