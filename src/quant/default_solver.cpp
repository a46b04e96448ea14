/// The only file that knows which solvers were built.

#include <algorithm>
#include <set>

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

const Solver& gpu_solver([[maybe_unused]] int gpu) {
#ifdef AQ_WITH_CUDA
  return solver_on_gpu(cuda::find_gpus().numbers.at(static_cast<std::size_t>(gpu)));
#else
  AQ_CHECK(false, "built without CUDA");
  return cpu_solver();
#endif
}

}  // namespace

const Solver& default_solver() {
  return cpu_solver();
}

const Solver& find_solver(SolverDevice device, int gpu) {
  if (device == SolverDevice::emulated) return emulated_solver();
  return device == SolverDevice::cuda ? gpu_solver(gpu) : cpu_solver();
}

VisibleGpus visible_gpus() {
#ifdef AQ_WITH_CUDA
  cuda::Gpus gpus = cuda::find_gpus();
  return {std::move(gpus.ids), std::move(gpus.reason)};
#else
  return {{}, "built without CUDA"};
#endif
}

std::vector<int> deal_gpus(const std::vector<std::vector<std::string>>& seen) {
  std::vector<int> dealt;
  std::set<std::string> taken;
  for (const std::vector<std::string>& ids : seen) {
    const auto free =
        std::ranges::find_if(ids, [&](const std::string& id) { return !taken.contains(id); });
    dealt.push_back(free == ids.end() ? -1 : static_cast<int>(free - ids.begin()));
    if (free != ids.end()) taken.insert(*free);
  }
  return dealt;
}

std::string gpu_text() {
  const VisibleGpus gpus = visible_gpus();
  return gpus.ids.empty() ? gpus.reason : str(gpus.ids.size());
}

}  // namespace aq
