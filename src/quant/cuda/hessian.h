#pragma once
/// Hessian and cross sums on a device.

#include "quant/cuda/accelerator.h"
#include "quant/target.h"

namespace aq::cuda {

/// sum += X'X for rows that are scaled and reversed (quant/cpu/hessian.h), `[tokens, columns]`;
/// adds tokens and `weight_sum`. Allocates sum.values on first use. Bits depend on the shapes of
/// the calls alone.
void accumulate_hessian(Accelerator& device, WeightedSum& sum,
                        MatrixView<const float> scaled_reversed, double weight_sum);

/// sum += D'X of a cross sum's tokens; the rest as above.
void accumulate_cross(Accelerator& device, WeightedSum& sum, const CrossTokens& tokens,
                      double weight_sum);

}  // namespace aq::cuda
