#pragma once
/// Where GPTQ aims when the original model has other inputs than the quantized one (GPTAQ, Li et
/// al. 2025, arXiv 2504.02692; QEP, Arai and Ichikawa 2025, arXiv 2504.09629): least squares over
/// the tokens of the cross sum, T = W + R Hλ⁻¹.

#include <functional>

#include "aq/core/buffer.h"
#include "aq/quant/solver.h"

namespace aq {

/// The rows of a cross sum's tokens: `d` as they are, `x` times their weights.
struct CrossTokens {
  Matrix d, x;
};
CrossTokens gather_cross(MatrixView<const float> d, MatrixView<const float> x,
                         std::span<const std::int32_t> rows, std::span<const float> weights);

/// See Solver::add_cross. On all threads when it is not called from a parallel_for.
void accumulate_cross(WeightedSum& sum, const CrossTokens& tokens, double weight_sum);

/// The factor's `lack` from the cross sum of its task; a factor whose sum overflowed is not usable.
void take_cross(FactorTask& task);

/// U of a factor as a matrix.
struct WholeFactor {
  Matrix upper;                     ///< `[columns, columns]`
  std::vector<std::int32_t> order;  ///< of its columns; empty: as they are stored
};

/// Fills the targets of tasks whose factors have a `lack`. A tile of kRowTile rows is worked on as
/// one, so that they do not depend on slices.
void form_targets(std::span<SolveTask> tasks,
                  const std::function<WholeFactor(const Factor&)>& whole_factor);

/// How a `lack` travels, see Solver::header_of.
std::int64_t lack_size(const Factor& factor);
std::shared_ptr<Matrix> room_for_lack(const FactorHeader& header);
Buffer lack_buffer(const Factor& factor);

}  // namespace aq
