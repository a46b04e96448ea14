#pragma once
/// Hessian sums on the CPU.

#include "aq/quant/hessian.h"

namespace aq {

/// Gathers rows `token_rows` of x (all rows when empty), scales row t by sqrt(weights[t]) (1 when
/// empty) and writes them with columns reversed: out `[tokens, columns]`.
void gather_scaled_reversed(MatrixView<const float> x, std::span<const std::int32_t> token_rows,
                            std::span<const float> weights, MatrixView<float> out);

/// sum += XᵀX for rows already scaled and reversed; adds tokens and `weight_sum`. Allocates
/// sum.values on first use. With parallel = true pieces are spread over threads, one thread a
/// piece. Bits depend on the shapes of the calls alone.
void accumulate_hessian(WeightedSum& sum, MatrixView<const float> scaled_reversed,
                        double weight_sum, bool parallel);

}  // namespace aq
