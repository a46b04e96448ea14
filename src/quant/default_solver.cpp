/// The only file that knows which solvers were built.

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "aq/quant/solver.h"
#include "quant/cpu/solver.h"
#include "quant/cuda/solver.h"
#ifdef AQ_WITH_CUDA
#include "quant/cuda/gpu.h"
#endif

namespace aq {
namespace {

/// GPUs of this machine, and why there is none.
struct Found {
  int count = 0;
  std::string reason;
};

Found find_gpus() {
#ifdef AQ_WITH_CUDA
  const cuda::GpuCount gpus = cuda::count_gpus();
  return {gpus.count, gpus.reason};
#else
  return {0, "built without CUDA"};
#endif
}

const Solver& gpu_solver([[maybe_unused]] int number) {
#ifdef AQ_WITH_CUDA
  return solver_on_gpu(number);
#else
  AQ_CHECK(false, "built without CUDA");
  return cpu_solver();
#endif
}

}  // namespace

const Solver& default_solver() {
  return cpu_solver();
}

std::string solver_problem(SolverDevice device, RanksOfNode ranks) {
  if (device != SolverDevice::cuda) return {};
  const Found gpus = find_gpus();
  if (gpus.count == 0) return gpus.reason;
  if (ranks.count <= gpus.count) return {};
  return str(ranks.count, " ranks on a machine with ", gpus.count, " GPUs");
}

const Solver& find_solver(SolverDevice device, RanksOfNode ranks) {
  AQ_CHECK(solver_problem(device, ranks).empty(), "no solver");
  if (device == SolverDevice::emulated) return emulated_solver();
  const bool has_gpu = device != SolverDevice::cpu && ranks.count <= find_gpus().count;
  return has_gpu ? gpu_solver(ranks.place) : cpu_solver();
}

std::string gpu_text() {
  const Found gpus = find_gpus();
  return gpus.count > 0 ? str(gpus.count) : gpus.reason;
}

}  // namespace aq
