#include "pipeline/factors.h"

#include <algorithm>

#include "aq/comm/watchdog.h"

namespace aq {
namespace {

/// Calls use(t, m, slice, row) for every slice of the matrices with output factors; `row` is its
/// first in the sum of task t.
template <class Use>
void for_each_coupled_slice(const StagePlan& stage, const Use& use) {
  for (std::size_t t = 0; t < stage.tasks.size(); ++t) {
    const TaskPlan& task = stage.tasks[t];
    Index first = 0;
    for (std::size_t m = 0; m < task.matrices.size(); ++m) {
      const MatrixPlan& matrix = task.matrices[m];
      if (!matrix.coupled) continue;
      for (const Slice& slice : matrix.slices) use(t, m, slice, first + slice.rows.begin);
      first += matrix.linear.rows;
    }
  }
}

}  // namespace

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
                      std::move(sums[task].cross), stage.tasks[task].cross_of});
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

SliceOutputs share_output_factors(StageContext& context, const StagePlan& stage,
                                  std::vector<TaskSum>& sums) {
  SliceOutputs own;
  if (!stage.has_output_factors()) return own;
  const PhaseTimer timer(context.times, Phase::exchange);
  const WorkLabel label("output factors");
  Communicator& comm = context.comm;
  for_each_coupled_slice(stage, [&](std::size_t t, std::size_t m, const Slice& slice, Index row) {
    const TaskPlan& task = stage.tasks[t];
    FloatArray& sum = sums[t].output_factor.values;
    if (task.owner == comm.rank() && sum.empty()) sum.assign(task.output_rows * kRowTile, 0.0F);
    const auto sent = [&] {
      return std::span(sum).subspan(row * kRowTile, slice.rows.size() * kRowTile);
    };
    const int tag = static_cast<int>(t);
    if (task.owner == comm.rank() && slice.rank != task.owner)
      comm.start_send(std::as_bytes(sent()), slice.rank, tag);
    if (slice.rank != comm.rank()) return;
    Matrix& rows = own[{t, m, slice.rows.begin}];
    rows = Matrix::uninitialized(slice.rows.size(), kRowTile);
    if (task.owner == comm.rank())
      std::ranges::copy(sent(), rows.values.begin());
    else
      comm.start_receive(std::as_writable_bytes(std::span(rows.values)), task.owner, tag);
  });
  comm.wait_all();
  for (TaskSum& sum : sums) sum.output_factor = {};
  return own;
}

}  // namespace aq
