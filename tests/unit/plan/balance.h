#pragma once
/// How evenly a stage keeps its ranks at work, for given token counts of its experts.

#include <span>

#include "aq/plan/plan.h"

namespace aq {

/// Mean / most over ranks of the operations of factor, GPTQ and refinement. `tokens[i]` of task i
/// decide whether it is refined (`sweeps` times); a task without tokens only rounds.
double solver_balance(const StagePlan& stage, int ranks, std::span<const Index> tokens, int sweeps);

/// Mean / most over ranks of tokens, were each expert's tokens worked on by the owner of its task.
double token_balance(const StagePlan& stage, int ranks, std::span<const Index> tokens);

}  // namespace aq
