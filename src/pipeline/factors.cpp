#include "pipeline/factors.h"

#include <algorithm>

#include "aq/comm/watchdog.h"

namespace aq {
bool has_rows(const TaskPlan& task, int rank) {
  return std::any_of(task.matrices.begin(), task.matrices.end(), [&](const MatrixPlan& matrix) {
    return std::any_of(matrix.slices.begin(), matrix.slices.end(),
                       [&](const Slice& slice) { return slice.rank == rank; });
  });
}

void factor_own(StageContext& context, const StagePlan& stage, std::span<const std::size_t> chunk,
                std::vector<TaskSum>& sums, std::vector<Factor>& factors) {
  const PhaseTimer timer(context.times, Phase::factor);
  std::vector<std::size_t> own;
  std::vector<FactorTask> work;
  for (const std::size_t task : chunk)
    if (stage.tasks[task].owner == context.comm.rank() && stage.tasks[task].needs_hessian) {
      own.push_back(task);
      work.push_back({std::move(sums[task].sum), stage.tasks[task].columns,
                      std::move(sums[task].cross), stage.tasks[task].cross_of,
                      std::move(sums[task].output_factor)});
    }
  context.solver.factorize(work, context.settings.gptq);
  for (std::size_t i = 0; i < own.size(); ++i) factors[own[i]] = std::move(work[i].factor);
}

void share_factors(StageContext& context, const StagePlan& stage, std::vector<Factor>& factors) {
  const PhaseTimer timer(context.times, Phase::exchange);
  Communicator& comm = context.comm;
  const auto for_each_transfer = [&](const auto& transfer) {
    for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
      const TaskPlan& task = stage.tasks[i];
      if (!task.split || !task.needs_hessian) continue;
      const WorkLabel label("factor of " + task.matrices.front().linear.name);
      for (int rank = 0; rank < comm.size(); ++rank)
        if (rank != task.owner && has_rows(task, rank)) transfer(i, task.owner, rank);
    }
  };
  std::vector<FactorHeader> headers;
  for (const Factor& factor : factors) headers.push_back(context.solver.header_of(factor));
  for_each_transfer([&](std::size_t task, int from, int to) {
    const auto header = std::as_writable_bytes(std::span(&headers[task], 1));
    if (comm.rank() == from) comm.start_send(header, to, static_cast<int>(task));
    if (comm.rank() == to) comm.start_receive(header, from, static_cast<int>(task));
  });
  comm.wait_all();
  for_each_transfer([&](std::size_t task, int from, int to) {
    const int tag = static_cast<int>(task);
    if (comm.rank() == to) factors[task] = context.solver.make_factor(headers[task]);
    for (const Buffer& array : context.solver.arrays_of(factors[task])) {
      if (comm.rank() == from) context.transport.start_send({array.bytes, array.device}, to, tag);
      if (comm.rank() == to) context.transport.start_receive(array, from, tag);
    }
  });
  context.transport.wait_all();
}

}  // namespace aq
