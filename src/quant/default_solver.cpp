/// The only file that knows which solvers were built.

#include "aq/quant/solver.h"
#include "quant/cpu/solver.h"

namespace aq {

const Solver& default_solver() {
  return cpu_solver();
}

}  // namespace aq
