#pragma once
/// GPTQ and refinement on a device.

#include "quant/cuda/accelerator.h"

namespace aq::cuda {

/// See Solver::solve.
void solve(Accelerator& device, std::span<SolveTask> tasks, const GptqSettings& settings);

}  // namespace aq::cuda
