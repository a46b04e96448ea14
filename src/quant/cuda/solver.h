#pragma once
/// The solver of devices.

#include "aq/quant/solver.h"

namespace aq {

/// On the emulated device: for tests, and to try runs of GPUs where there is none.
const Solver& emulated_solver();

/// On the GPU of this process, which has one. Only where CUDA was built in.
const Solver& solver_on_gpu(int number);

}  // namespace aq
