#pragma once
/// What every solver does with a task before and after its mathematics.

#include "aq/quant/solver.h"
#include "quant/grid_search.h"

namespace aq {

/// Null: round to nearest.
inline const Factor* usable_factor(const SolveTask& task) {
  return task.factor != nullptr && task.factor->usable() ? task.factor : nullptr;
}

/// The rows that its result should come near.
inline MatrixView<const float> aim_of(const SolveTask& task) {
  return task.target.rows > 0 ? task.target.view() : task.weight;
}

/// Checks a task and gives its results their sizes.
void prepare(SolveTask& task);

/// Rows [first, first + count) as they are stored, beside their weights: fills weight_error and
/// weight_norm.
void compare_rows(SolveTask& task, Index first, Index count);

/// How the grids of its groups are found.
GridSearch grid_search(const SolveTask& task, const GptqSettings& settings);

/// Fills the counts of scales that float16 does not reach.
void count_scales(SolveTask& task);

}  // namespace aq
