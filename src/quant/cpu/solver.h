#pragma once
/// GPTQ and rounding on the CPU.

#include "aq/quant/solver.h"

namespace aq {

const Solver& cpu_solver();

/// See Solver::solve: row tiles of all tasks are spread over threads.
void solve(std::span<SolveTask> tasks, const GptqSettings& settings);

}  // namespace aq
