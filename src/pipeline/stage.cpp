#include "pipeline/stage.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "aq/comm/watchdog.h"
#include "aq/quant/hessian.h"
#include "pipeline/factors.h"

namespace aq {
namespace {

/// A slice that this rank is to solve, with its original rows.
struct Work {
  SolvedSlice slice;
  Matrix weight;
  SolveTask solve;
};

std::vector<Work> list_work(const StagePlan& stage, std::span<const std::size_t> chunk, int rank,
                            const std::vector<Factor>& factors, const SliceOutputs& outputs) {
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
        const Factor& factor = factors[t];
        item.solve.refine = static_cast<double>(factor.tokens) >=
                            kRefineTokensPerColumn * static_cast<double>(task.columns);
        item.weight.rows = slice.rows.size();
        const bool gptq = matrix.assignment.method == Method::gptq;
        item.solve.factor = gptq ? &factor : nullptr;
        if (matrix.coupled) item.solve.output_factor = outputs.at({t, m, slice.rows.begin}).view();
        work.push_back(std::move(item));
      }
    }
  }
  return work;
}

const LinearSpec& linear_of(const StagePlan& stage, const Work& item) {
  const TaskPlan& task = stage.tasks[item.slice.task];
  return task.matrices[item.slice.matrix].linear;
}

/// The nvfp4 matrices of a task share one global scale (servers fuse q, k, v and gate, up): that of
/// the largest magnitude in all of them.
void fit_global_scales(const StageContext& context, const StagePlan& stage,
                       std::span<const std::size_t> chunk, std::span<Work> work) {
  struct Whole {
    std::size_t task;
    float absmax;
  };
  std::vector<Whole> found;
  std::vector<OriginalRows> wanted;
  for (const std::size_t t : chunk)
    for (const MatrixPlan& matrix : stage.tasks[t].matrices)
      if (matrix.assignment.method != Method::copy && matrix.assignment.scheme.is_nvfp4()) {
        found.push_back({t, 0});
        wanted.push_back({matrix.linear, {0, matrix.linear.rows}});
      }
  context.original.read(wanted, [&](Index i, const Matrix& whole) {
    found[i].absmax = largest_magnitude(whole.values);
  });
  for (Work& item : work) {
    if (!item.solve.scheme.is_nvfp4()) continue;
    float absmax = 0;
    for (const Whole& whole : found)
      if (static_cast<std::int64_t>(whole.task) == item.slice.task)
        absmax = std::max(absmax, whole.absmax);
    item.solve.global_scale = fit_global_scale(item.solve.scheme, absmax);
  }
}

/// A per-tensor grid is fitted on the whole matrix, whatever slice is solved here.
void fit_tensor_grids(const StageContext& context, const StagePlan& stage, std::span<Work> work) {
  std::vector<SolveTask*> tasks;
  std::vector<OriginalRows> wanted;
  for (Work& item : work) {
    if (item.solve.scheme.group_size != kPerTensor) continue;
    const LinearSpec& linear = linear_of(stage, item);
    tasks.push_back(&item.solve);
    wanted.push_back({linear, {0, linear.rows}});
  }
  context.original.read(wanted, [&](Index i, const Matrix& whole) {
    SolveTask& task = *tasks[i];
    task.tensor_grid =
        fit_tensor_grid(task.scheme, whole.view(), context.settings.gptq.scale_search);
  });
}

/// Reads the rows of every piece of work, and fits what must be fitted on whole matrices.
void read_weights(const StageContext& context, const StagePlan& stage,
                  std::span<const std::size_t> chunk, std::span<Work> work) {
  fit_global_scales(context, stage, chunk, work);
  fit_tensor_grids(context, stage, work);
  std::vector<OriginalRows> wanted;
  for (const Work& item : work)
    wanted.push_back(
        {linear_of(stage, item), {item.slice.first_row, item.slice.first_row + item.weight.rows}});
  context.original.read(wanted, [&](Index i, Matrix rows) {
    Work& item = work[i];
    item.weight = std::move(rows);
    item.solve.weight = item.weight.view();
  });
}

/// Sums over tiles of rows, which are the same whatever slices a matrix is cut into.
std::vector<double> tile_sums(std::span<const double> rows) {
  std::vector<double> sums;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (r % kRowTile == 0) sums.push_back(0);
    sums.back() += rows[r];
  }
  return sums;
}

/// Solves this rank's rows of the tasks in `chunk`.
void solve_chunk(StageContext& context, const StagePlan& stage, std::span<const std::size_t> chunk,
                 const std::vector<Factor>& factors, const SliceOutputs& outputs,
                 std::vector<SolvedSlice>& solved) {
  std::vector<Work> work = list_work(stage, chunk, context.comm.rank(), factors, outputs);
  timed(context.times, Phase::read, "original rows",
        [&] { read_weights(context, stage, chunk, work); });
  std::vector<SolveTask> tasks;
  for (Work& item : work) tasks.push_back(std::move(item.solve));
  timed(context.times, Phase::solve, "GPTQ",
        [&] { context.solver.solve(tasks, context.settings.gptq); });
  for (std::size_t i = 0; i < work.size(); ++i) {
    SolvedSlice& slice = work[i].slice;
    const Factor& factor = factors[slice.task];
    slice.rows = std::move(tasks[i].result);
    slice.error = std::move(tasks[i].error);
    slice.error_rtn = std::move(tasks[i].error_rtn);
    slice.norm = std::move(tasks[i].norm);
    slice.weight_error = tile_sums(tasks[i].weight_error);
    slice.weight_norm = tile_sums(tasks[i].weight_norm);
    slice.scales_above = tasks[i].scales_above;
    slice.scales_below = tasks[i].scales_below;
    if (tasks[i].factor != nullptr) {
      slice.weight_sum = factor.weight_sum;
      slice.tokens = factor.tokens;
      describe(factor, slice);
    } else {
      slice.method = Method::rtn;
    }
    solved.push_back(std::move(slice));
  }
}

std::vector<SolvedSlice> solve_own(StageContext& context, const StagePlan& stage,
                                   std::vector<TaskSum>& sums) {
  const int rank = context.comm.rank();
  std::vector<std::size_t> whole, split;
  bool any_split = false;
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    const TaskPlan& task = stage.tasks[i];
    any_split = any_split || task.split;
    if (task.owner == rank || has_rows(task, rank)) (task.split ? split : whole).push_back(i);
  }
  const SliceOutputs outputs = share_output_factors(context, stage, sums);
  std::vector<Factor> factors(stage.tasks.size());
  std::vector<SolvedSlice> solved;
  if (any_split) {  // at most one or two a rank: all at once, factors go where the rows are
    factor_own(context, stage, split, sums, factors);
    share_factors(context, stage, factors);
    solve_chunk(context, stage, split, factors, outputs, solved);
    for (const std::size_t task : split) factors[task] = {};
  }
  const auto step = static_cast<std::size_t>(context.solver.tasks_at_once());
  for (std::size_t first = 0; first < whole.size(); first += step) {
    const std::span chunk = std::span(whole).subspan(first, std::min(step, whole.size() - first));
    factor_own(context, stage, chunk, sums, factors);
    solve_chunk(context, stage, chunk, factors, outputs, solved);
    for (const std::size_t task : chunk) factors[task] = {};
  }
  return solved;
}

/// Leaves the errors of the rows that are looked at.
void keep_sampled_rows(SolvedSlice& slice) {
  for (std::vector<double>* values : {&slice.error, &slice.error_rtn, &slice.norm}) {
    std::vector<double> sampled;
    for (std::size_t r = 0; r < values->size(); ++r)
      if ((slice.first_row + static_cast<std::int64_t>(r)) % kErrorRowStride == 0)
        sampled.push_back((*values)[r]);
    *values = std::move(sampled);
  }
}

/// Every rank's slices; with Codes::at_owner those of others without their codes.
std::vector<SolvedSlice> exchange_slices(StageContext& context, std::vector<SolvedSlice> solved,
                                         Codes codes) {
  const PhaseTimer timer(context.times, Phase::exchange);
  const WorkLabel label("quantized rows of all matrices");
  std::map<std::pair<std::int64_t, std::int64_t>, QuantizedMatrix> own;
  if (codes == Codes::at_owner)
    for (SolvedSlice& slice : solved)
      own[{slice.task, slice.matrix}] = std::exchange(slice.rows, QuantizedMatrix{});
  for (SolvedSlice& slice : solved) keep_sampled_rows(slice);
  std::vector<SolvedSlice> all;
  for (const std::vector<std::byte>& bytes : context.comm.all_gather(slices_to_bytes(solved)))
    for (SolvedSlice& slice : slices_from_bytes(bytes)) all.push_back(std::move(slice));
  for (SolvedSlice& slice : all)
    if (const auto mine = own.find({slice.task, slice.matrix}); mine != own.end())
      slice.rows = std::move(mine->second);
  std::sort(all.begin(), all.end(), [](const SolvedSlice& a, const SolvedSlice& b) {
    return std::tie(a.task, a.matrix, a.first_row) < std::tie(b.task, b.matrix, b.first_row);
  });
  return all;
}

/// Sums over the sampled rows, in row order, without those whose errors overflowed; and over all
/// weights.
void add_errors(std::span<const SolvedSlice> slices, MatrixStats& stats) {
  double error = 0, error_rtn = 0, norm = 0;
  for (const SolvedSlice& slice : slices)
    for (std::size_t r = 0; r < slice.norm.size(); ++r) {
      if (!std::isfinite(slice.error[r] + slice.error_rtn[r] + slice.norm[r])) continue;
      error += slice.error[r];
      error_rtn += slice.error_rtn[r];
      norm += slice.norm[r];
    }
  if (norm > 0) {
    stats.error = error / norm;
    stats.error_rtn = error_rtn / norm;
  }
  constexpr double kLargest = std::numeric_limits<double>::max();  // JSON has no infinity
  double weight_error = 0, weight_norm = 0;
  for (const SolvedSlice& slice : slices)
    for (std::size_t tile = 0; tile < slice.weight_norm.size(); ++tile) {
      weight_error += slice.weight_error[tile];
      weight_norm += slice.weight_norm[tile];
    }
  stats.weight_error = weight_norm > 0 ? std::min(weight_error / weight_norm, kLargest) : 0;
}

/// The matrix whose rows the slices hold; without rows where they were left at the owner.
QuantizedMatrix take_matrix(const MatrixPlan& plan, std::span<SolvedSlice> slices, Codes codes) {
  std::vector<QuantizedMatrix> parts;
  for (SolvedSlice& slice : slices) parts.push_back(std::move(slice.rows));
  QuantizedMatrix matrix = parts.size() == 1 ? std::move(parts.front()) : stack_rows(parts);
  AQ_CHECK(matrix.rows == plan.linear.rows || (codes == Codes::at_owner && matrix.rows == 0),
           plan.linear.name);
  return matrix;
}

QuantizedRecord make_record(const MatrixPlan& plan, const std::string& starved,
                            std::span<const SolvedSlice> slices) {
  const SolvedSlice& first = slices.front();
  QuantizedRecord record;
  record.task = first.task;
  record.row = {
      plan.linear.name, plan.linear.rows, plan.linear.columns, plan.assignment.scheme, {}};
  record.activation = plan.assignment.activation;
  record.row.stats = {.layer = plan.linear.layer,
                      .expert = plan.linear.expert,
                      .method = first.method,
                      .tokens = first.tokens,
                      .weight_sum = first.weight_sum,
                      .damping = first.damping,
                      .fallback = std::string(fallback_name(first.fallback))};
  if (plan.assignment.method == Method::gptq && starved != "none" &&
      (first.fallback == Fallback::none || first.rtn_reason == RtnReason::no_tokens))
    record.row.stats.fallback = starved;
  add_errors(slices, record.row.stats);
  add_scales(slices, record.row.stats);
  return record;
}

/// Shows the sums that are owned here.
void observe(const StageContext& context, const StagePlan& stage,
             const std::vector<TaskSum>& sums) {
  if (!context.observer) return;
  for (std::size_t i = 0; i < stage.tasks.size(); ++i)
    if (stage.tasks[i].needs_hessian && stage.tasks[i].owner == context.comm.rank())
      context.observer(stage.tasks[i], sums[i]);
}

}  // namespace

std::vector<TaskSum> reduce_sums(StageContext& context, const StagePlan& stage,
                                 std::vector<TaskCalibration> calibrations) {
  calibrations.resize(stage.tasks.size());
  std::vector<TaskSum> sums(stage.tasks.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    sums[i].starved = std::move(calibrations[i].starved);
  if (!stage.needs_hessian()) return sums;
  std::vector<Reduction> hessians, crosses, outputs;
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    const TaskPlan& task = stage.tasks[i];
    const auto list = [&](LanePartials& partials, Index values,
                          std::vector<Reduction>& reductions) {
      reductions.push_back(
          {task.owner, values, std::move(partials), {}, task.matrices.front().linear.name});
    };
    list(calibrations[i].partials.hessian, hessian_size(task.columns), hessians);
    list(calibrations[i].partials.cross, task.cross_rows * task.columns, crosses);
    list(calibrations[i].partials.output_factor, task.output_rows * kRowTile, outputs);
  }
  timed(context.times, Phase::reduce, "Hessians",
        [&] { reduce_to_owners(context.transport, context.lanes, hessians); });
  if (context.settings.runs_original())
    timed(context.times, Phase::reduce, "cross sums",
          [&] { reduce_to_owners(context.transport, context.lanes, crosses); });
  if (stage.has_output_factors())
    timed(context.times, Phase::reduce, "output factors",
          [&] { reduce_to_owners(context.transport, context.lanes, outputs); });
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    sums[i].sum = std::move(hessians[i].result);
    sums[i].cross = std::move(crosses[i].result);
    sums[i].output_factor = std::move(outputs[i].result);
  }
  observe(context, stage, sums);
  return sums;
}

std::vector<TaskSum> own_sums(StageContext& context, const StagePlan& stage,
                              std::vector<TaskCalibration> calibrations) {
  std::vector<TaskSum> sums;
  const auto whole = [](LanePartials& partials) {
    AQ_CHECK(partials.size() <= 1, "the lanes of all ranks are one tree");
    return partials.empty() ? WeightedSum{} : std::move(partials.front().sum);
  };
  for (TaskCalibration& calibration : calibrations)
    sums.push_back({whole(calibration.partials.hessian), whole(calibration.partials.cross),
                    whole(calibration.partials.output_factor), std::move(calibration.starved)});
  observe(context, stage, sums);
  return sums;
}

std::vector<QuantizedRecord> quantize_stage(StageContext& context, const StagePlan& stage,
                                            std::vector<TaskSum> sums, Codes codes) {
  if (!stage.quantizes()) return {};
  std::vector<SolvedSlice> all = exchange_slices(context, solve_own(context, stage, sums), codes);
  std::vector<QuantizedRecord> records;
  for (std::size_t begin = 0; begin < all.size();) {
    std::size_t end = begin;
    while (end < all.size() && all[end].task == all[begin].task &&
           all[end].matrix == all[begin].matrix)
      ++end;
    const auto task = static_cast<std::size_t>(all[begin].task);
    const MatrixPlan& plan = stage.tasks[task].matrices[all[begin].matrix];
    const std::span slices = std::span(all).subspan(begin, end - begin);
    describe_alike(slices);
    if (context.comm.is_first()) warn_of_rtn(plan.linear, slices.front().rtn_reason);
    records.push_back(make_record(plan, sums[task].starved, slices));
    if (context.comm.is_first()) warn_of_scales(plan.linear, records.back().row.stats);
    QuantizedMatrix matrix = take_matrix(plan, slices, codes);
    if (plan.writer() == context.comm.rank()) records.back().matrix = matrix;
    if (matrix.rows > 0) context.quantized.put(plan.linear.name, std::move(matrix));
    begin = end;
  }
  return records;
}

}  // namespace aq
