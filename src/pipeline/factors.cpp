#include "pipeline/factors.h"

#include <algorithm>
#include <array>

#include "aq/comm/watchdog.h"
#include "aq/core/parallel.h"

namespace aq {
namespace {

/// What a factor says besides its arrays, as it travels.
struct FactorHeader {
  std::int64_t columns, dead_channels, tokens;
  std::array<std::int64_t, 4> sizes;  ///< elements of u, h, diagonal, order
  double damping, mean_diagonal, weight_sum;
  Fallback fallback;
};

template <class T>
std::span<std::byte> bytes_of(std::span<T> values) {
  return std::as_writable_bytes(values);
}

FactorHeader header_of(const TaskFactor& task) {
  const Factor& f = task.factor;
  return {f.columns,
          f.dead_channels,
          task.tokens,
          {std::ssize(f.u), std::ssize(f.h), std::ssize(f.diagonal), std::ssize(f.order)},
          f.damping,
          f.mean_diagonal,
          task.weight_sum,
          f.fallback};
}

/// A factor with the sizes that a header tells.
TaskFactor sized_like(const FactorHeader& header) {
  TaskFactor task;
  Factor& f = task.factor;
  f.columns = header.columns;
  f.dead_channels = header.dead_channels;
  f.damping = header.damping;
  f.mean_diagonal = header.mean_diagonal;
  f.fallback = header.fallback;
  f.u.resize(static_cast<std::size_t>(header.sizes[0]));
  f.h.resize(static_cast<std::size_t>(header.sizes[1]));
  f.diagonal.resize(static_cast<std::size_t>(header.sizes[2]));
  f.order.resize(static_cast<std::size_t>(header.sizes[3]));
  task.weight_sum = header.weight_sum;
  task.tokens = header.tokens;
  return task;
}

std::array<std::span<std::byte>, 4> arrays_of(Factor& f) {
  return {bytes_of(std::span(f.u)), bytes_of(std::span(f.h)), bytes_of(std::span(f.diagonal)),
          bytes_of(std::span(f.order))};
}

}  // namespace

bool has_rows(const TaskPlan& task, int rank) {
  return std::any_of(task.matrices.begin(), task.matrices.end(), [&](const MatrixPlan& matrix) {
    return std::any_of(matrix.slices.begin(), matrix.slices.end(),
                       [&](const Slice& slice) { return slice.rank == rank; });
  });
}

void factor_own(StageContext& context, const StagePlan& stage, std::span<const std::size_t> chunk,
                std::vector<TaskSum>& sums, std::vector<TaskFactor>& factors) {
  const PhaseTimer timer(context.times, Phase::factor);
  std::vector<std::size_t> own;
  for (const std::size_t task : chunk)
    if (stage.tasks[task].owner == context.comm.rank() && stage.tasks[task].needs_hessian)
      own.push_back(task);
  parallel_for(static_cast<Index>(own.size()), [&](Index i) {
    const std::size_t task = own[static_cast<std::size_t>(i)];
    WeightedSum sum = std::move(sums[task].sum);
    factors[task] = {factorize(sum, stage.tasks[task].columns, context.settings.gptq),
                     sum.weight_sum, sum.tokens};
  });
}

void share_factors(StageContext& context, const StagePlan& stage,
                   std::vector<TaskFactor>& factors) {
  const PhaseTimer timer(context.times, Phase::exchange);
  Communicator& comm = context.comm;
  std::vector<FactorHeader> headers(stage.tasks.size());
  const auto for_each_transfer = [&](const auto& transfer) {
    for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
      const TaskPlan& task = stage.tasks[i];
      if (!task.split || !task.needs_hessian) continue;
      const WorkLabel label("factor of " + task.matrices.front().linear.name);
      for (int rank = 0; rank < comm.size(); ++rank)
        if (rank != task.owner && has_rows(task, rank)) transfer(i, task.owner, rank);
    }
  };
  for (std::size_t i = 0; i < factors.size(); ++i) headers[i] = header_of(factors[i]);
  for_each_transfer([&](std::size_t task, int from, int to) {
    const std::span header(&headers[task], 1);
    if (comm.rank() == from) comm.start_send(bytes_of(header), to, static_cast<int>(task));
    if (comm.rank() == to) comm.start_receive(bytes_of(header), from, static_cast<int>(task));
  });
  comm.wait_all();
  for_each_transfer([&](std::size_t task, int from, int to) {
    if (comm.rank() == to) factors[task] = sized_like(headers[task]);
    for (const std::span<std::byte> array : arrays_of(factors[task].factor)) {
      if (array.empty()) continue;
      if (comm.rank() == from) comm.start_send(array, to, static_cast<int>(task));
      if (comm.rank() == to) comm.start_receive(array, from, static_cast<int>(task));
    }
  });
  comm.wait_all();
}

}  // namespace aq
