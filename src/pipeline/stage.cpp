#include "pipeline/stage.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "aq/core/parallel.h"
#include "aq/quant/hessian.h"
#include "pipeline/factors.h"

namespace aq {
namespace {

/// With fewer calibration tokens than this for each input channel, refinement fits their noise:
/// docs/fidelity.md.
constexpr double kRefineTokensPerColumn = 0.25;

/// A slice that this rank is to solve, with its original rows.
struct Work {
  SolvedSlice slice;
  Matrix weight;
  SolveTask solve;
};

std::vector<Work> list_work(const StagePlan& stage, std::span<const std::size_t> chunk, int rank,
                            const std::vector<TaskFactor>& factors) {
  std::vector<Work> work;
  for (const std::size_t t : chunk) {
    const TaskPlan& task = stage.tasks[t];
    for (std::size_t m = 0; m < task.matrices.size(); ++m) {
      const MatrixPlan& matrix = task.matrices[m];
      for (const Slice& slice : matrix.slices) {
        if (slice.rank != rank) continue;
        Work item;
        item.slice.task = static_cast<std::int64_t>(t);
        item.slice.matrix = static_cast<std::int64_t>(m);
        item.slice.first_row = slice.rows.begin;
        item.solve.first_row = slice.rows.begin;
        item.solve.scheme = matrix.assignment.scheme;
        item.solve.scale_rule = matrix.assignment.scale_rule;
        const TaskFactor& factor = factors[t];
        item.solve.refine = static_cast<double>(factor.tokens) >=
                            kRefineTokensPerColumn * static_cast<double>(task.columns);
        item.weight.rows = slice.rows.size();
        const bool gptq = matrix.assignment.method == Method::gptq;
        item.solve.factor = gptq ? &factor.factor : nullptr;
        work.push_back(std::move(item));
      }
    }
  }
  return work;
}

/// What must be fitted on whole matrices: the grid of a per-tensor scheme, and the global scale
/// that the nvfp4 matrices of a task share (servers fuse q, k, v and gate, up).
void fit_whole(const Weights& weights, const TaskPlan& task, const LinearSpec& linear,
               ScaleSearch search, SolveTask& solve) {
  if (solve.scheme.group_size == kPerTensor)
    solve.tensor_grid =
        fit_tensor_grid(solve.scheme, weights.original_rows(linear, 0, linear.rows).view(), search);
  if (!solve.scheme.is_nvfp4()) return;
  float absmax = 0;
  for (const MatrixPlan& other : task.matrices) {
    if (!(other.assignment.scheme == solve.scheme)) continue;
    const Matrix whole = weights.original_rows(other.linear, 0, other.linear.rows);
    for (const float value : whole.values) absmax = std::max(absmax, std::abs(value));
  }
  solve.global_scale = fit_global_scale(solve.scheme, absmax);
}

void read_weights(const StageContext& context, const StagePlan& stage, std::span<Work> work) {
  parallel_for(static_cast<Index>(work.size()), [&](Index i) {
    Work& item = work[static_cast<std::size_t>(i)];
    const TaskPlan& task = stage.tasks[static_cast<std::size_t>(item.slice.task)];
    const LinearSpec& linear = task.matrices[static_cast<std::size_t>(item.slice.matrix)].linear;
    fit_whole(context.original, task, linear, context.settings.gptq.scale_search, item.solve);
    item.weight = context.original.original_rows(linear, item.slice.first_row, item.weight.rows);
    item.solve.weight = item.weight.view();
  });
}

/// Solves this rank's rows of the tasks in `chunk`.
void solve_chunk(StageContext& context, const StagePlan& stage, std::span<const std::size_t> chunk,
                 const std::vector<TaskFactor>& factors, std::vector<SolvedSlice>& solved) {
  std::vector<Work> work = list_work(stage, chunk, context.comm.rank(), factors);
  {
    const PhaseTimer timer(context.times, "read");
    read_weights(context, stage, work);
  }
  const PhaseTimer timer(context.times, "solve");
  std::vector<SolveTask> tasks;
  for (Work& item : work) tasks.push_back(std::move(item.solve));
  solve(tasks, context.settings.gptq);
  for (std::size_t i = 0; i < work.size(); ++i) {
    SolvedSlice& slice = work[i].slice;
    const TaskFactor& factor = factors[static_cast<std::size_t>(slice.task)];
    slice.rows = std::move(tasks[i].result);
    slice.error = std::move(tasks[i].error);
    slice.error_rtn = std::move(tasks[i].error_rtn);
    slice.norm = std::move(tasks[i].norm);
    if (tasks[i].factor != nullptr) {
      slice.method = factor.factor.usable() ? Method::gptq : Method::rtn;
      slice.fallback = factor.factor.fallback;
      slice.damping = factor.factor.damping;
      slice.weight_sum = factor.weight_sum;
      slice.tokens = factor.tokens;
    } else {
      slice.method = Method::rtn;
    }
    solved.push_back(std::move(slice));
  }
}

std::vector<SolvedSlice> solve_own(StageContext& context, const StagePlan& stage,
                                   std::vector<TaskSum>& sums) {
  const int rank = context.comm.rank();
  std::vector<std::size_t> mine;
  bool split = false;
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    if (stage.tasks[i].owner == rank || has_rows(stage.tasks[i], rank)) mine.push_back(i);
    split = split || stage.tasks[i].split;
  }
  std::vector<TaskFactor> factors(stage.tasks.size());
  std::vector<SolvedSlice> solved;
  if (split) {  // fewer tasks than ranks: all at once, factors go where the rows are
    factor_own(context, stage, mine, sums, factors);
    share_factors(context, stage, factors);
    solve_chunk(context, stage, mine, factors, solved);
    return solved;
  }
  const auto step = static_cast<std::size_t>(thread_count());
  for (std::size_t first = 0; first < mine.size(); first += step) {
    const std::span chunk = std::span(mine).subspan(first, std::min(step, mine.size() - first));
    factor_own(context, stage, chunk, sums, factors);
    solve_chunk(context, stage, chunk, factors, solved);
    for (const std::size_t task : chunk) factors[task].factor = {};
  }
  return solved;
}

std::vector<SolvedSlice> exchange_slices(StageContext& context,
                                         std::span<const SolvedSlice> solved) {
  const PhaseTimer timer(context.times, "exchange");
  std::vector<SolvedSlice> all;
  for (const std::vector<std::byte>& bytes : context.comm.all_gather(slices_to_bytes(solved)))
    for (SolvedSlice& slice : slices_from_bytes(bytes)) all.push_back(std::move(slice));
  std::sort(all.begin(), all.end(), [](const SolvedSlice& a, const SolvedSlice& b) {
    return std::tie(a.task, a.matrix, a.first_row) < std::tie(b.task, b.matrix, b.first_row);
  });
  return all;
}

/// Sums over the sampled rows, in row order.
void add_errors(std::span<const SolvedSlice> slices, MatrixStats& stats) {
  double error = 0, error_rtn = 0, norm = 0;
  for (const SolvedSlice& slice : slices)
    for (std::size_t r = 0; r < slice.norm.size(); ++r) {
      if ((slice.first_row + static_cast<std::int64_t>(r)) % kErrorRowStride != 0) continue;
      error += slice.error[r];
      error_rtn += slice.error_rtn[r];
      norm += slice.norm[r];
    }
  if (norm > 0) {
    stats.error = error / norm;
    stats.error_rtn = error_rtn / norm;
  }
}

QuantizedRecord make_record(const MatrixPlan& plan, const std::string& starved,
                            std::span<SolvedSlice> slices, QuantizedMatrix& matrix) {
  std::vector<QuantizedMatrix> parts;
  for (SolvedSlice& slice : slices) parts.push_back(std::move(slice.rows));
  matrix = parts.size() == 1 ? std::move(parts.front()) : stack_rows(parts);
  AQ_CHECK(matrix.rows == plan.linear.rows, plan.linear.name);
  const SolvedSlice& first = slices.front();
  QuantizedRecord record;
  record.row = {plan.linear.name, matrix.rows, matrix.columns, matrix.scheme, {}};
  record.activation = plan.assignment.activation;
  record.row.stats = {.layer = plan.linear.layer,
                      .expert = plan.linear.expert,
                      .method = first.method,
                      .tokens = first.tokens,
                      .weight_sum = first.weight_sum,
                      .damping = first.damping,
                      .fallback = std::string(fallback_name(first.fallback))};
  if (plan.assignment.method == Method::gptq && starved != "none" &&
      (first.fallback == Fallback::none || first.method == Method::rtn))
    record.row.stats.fallback = starved;
  add_errors(slices, record.row.stats);
  return record;
}

}  // namespace

std::vector<TaskSum> reduce_sums(StageContext& context, const StagePlan& stage,
                                 std::vector<TaskCalibration> calibrations) {
  calibrations.resize(stage.tasks.size());
  std::vector<TaskSum> sums;
  for (TaskCalibration& calibration : calibrations)
    sums.push_back({{}, std::move(calibration.starved)});
  if (!stage.needs_hessian()) return sums;
  std::vector<Reduction> reductions;
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    const TaskPlan& task = stage.tasks[i];
    reductions.push_back(
        {task.owner, hessian_size(task.columns), std::move(calibrations[i].partials), {}});
  }
  {
    const PhaseTimer timer(context.times, "reduce");
    reduce_to_owners(context.comm, context.lanes, reductions);
  }
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    const TaskPlan& task = stage.tasks[i];
    sums[i].sum = std::move(reductions[i].result);
    if (context.observer && task.needs_hessian && task.owner == context.comm.rank())
      context.observer(task, sums[i]);
  }
  return sums;
}

std::vector<QuantizedRecord> quantize_stage(StageContext& context, const StagePlan& stage,
                                            std::vector<TaskSum> sums) {
  if (!stage.quantizes()) return {};
  std::vector<SolvedSlice> all = exchange_slices(context, solve_own(context, stage, sums));
  std::vector<QuantizedRecord> records;
  for (std::size_t begin = 0; begin < all.size();) {
    std::size_t end = begin;
    while (end < all.size() && all[end].task == all[begin].task &&
           all[end].matrix == all[begin].matrix)
      ++end;
    const auto task = static_cast<std::size_t>(all[begin].task);
    const MatrixPlan& plan =
        stage.tasks[task].matrices[static_cast<std::size_t>(all[begin].matrix)];
    QuantizedMatrix matrix;
    records.push_back(
        make_record(plan, sums[task].starved, std::span(all).subspan(begin, end - begin), matrix));
    if (plan.writer() == context.comm.rank()) records.back().matrix = matrix;
    context.quantized.put(plan.linear.name, std::move(matrix));
    begin = end;
  }
  return records;
}

}  // namespace aq
