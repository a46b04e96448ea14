#include "quant/cpu/solver.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aq/core/parallel.h"
#include "aq/quant/output_factor.h"
#include "quant/cpu/aligned_floats.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/hessian.h"
#include "quant/cpu/tile_kernel.h"
#include "quant/row_kernel.h"
#include "quant/solve_task.h"
#include "quant/target.h"

namespace aq {
namespace {

/// The grids of a job: which columns share one and how it is found.
void set_grids(const SolveTask& task, const GptqSettings& settings, TileJob& job) {
  const bool per_tensor = task.scheme.group_size == kPerTensor;
  job.grids = grid_search(task, settings);
  job.element = task.scheme.element;
  job.bits = task.scheme.bits;
  job.group = std::max<Index>(group_width(task.scheme, job.columns), 1);
  job.groups = group_count(task.scheme, job.columns);
  if (per_tensor) {
    job.fixed_scale = task.tensor_grid.scale;
    job.fixed_zero = task.tensor_grid.zero;
  }
  job.fit_first = !per_tensor && (job.groups == 1 || job.order != nullptr);
}

/// What the tiles of a task have in common.
TileJob common_job(const SolveTask& task, const Factor* used, const GptqSettings& settings) {
  TileJob job;
  job.columns = task.weight.columns;
  job.words = words_per_row(task.scheme.bits, job.columns);
  if (used != nullptr) {
    const CpuFactor& factor = cpu_factor(*used);
    job.strips = factor.u.data();
    job.order = factor.order.empty() ? nullptr : factor.order.data();
    if (settings.scale_search == ScaleSearch::hessian) job.column_weight = factor.diagonal.data();
    if (task.refine && !factor.h.empty()) {
      job.h = factor.h.data();
      job.sweeps = settings.refine;
      job.refit = !task.scheme.is_mx() && task.scheme.group_size != kPerTensor;
      if (task.output_factor.rows > 0) job.coupled_sweeps = settings.refine;
    }
  }
  set_grids(task, settings, job);
  const Index block = round_up(std::max(settings.block, Index{1}), kPanel);
  const bool fit_on_the_way = !job.fit_first && job.fixed_scale == 0;
  job.segment = fit_on_the_way ? job.group : std::min(block, job.columns);
  job.block = std::max(block / job.segment, Index{1}) * job.segment;
  return job;
}

/// A tile of one task, or the sampled rows of several tiles.
struct Item {
  SolveTask* task;
  Index first = 0;  ///< row of the slice
  bool norms = false;
};

constexpr Index kNormSpan = kRowTile * kErrorRowStride;  ///< rows of which one item samples

/// Memory of this thread for tiles, one at a time.
float* tile_memory(std::initializer_list<const TileJob*> jobs) {
  static thread_local AlignedFloats memory;
  Index floats = 0;
  for (const TileJob* job : jobs) floats = std::max(floats, tile_kernel().workspace_floats(*job));
  return memory.take(floats);
}

/// @param factor  null: round to nearest
void solve_tile_with(const Factor* factor, const Item& item, const GptqSettings& settings) {
  SolveTask& task = *item.task;
  TileJob job = common_job(task, factor, settings);
  QuantizedMatrix& result = task.result;
  job.rows = std::min(kRowTile, task.weight.rows - item.first);
  const MatrixView<const float> aim = factor != nullptr ? aim_of(task) : task.weight;
  job.weight = aim.data + item.first * aim.stride;
  job.stride = aim.stride;
  job.codes = result.codes.data() + item.first * job.words;
  if (task.scheme.group_size != kPerTensor) {
    job.scales = result.scales.data() + item.first * job.groups;
    if (!task.scheme.symmetric) job.zeros = result.zeros.data() + item.first * job.groups;
  }
  if (factor != nullptr) job.error = task.error.data() + item.first;
  alignas(64) float output[kRowTile * kRowTile];
  if (job.coupled_sweeps > 0) {
    output_block(task.output_factor.slice_rows(item.first, job.rows), factor->tokens, output);
    job.output_factor = output;
  }
  job.workspace = tile_memory({&job});
  tile_kernel().solve(job);
}

/// A tile whose errors overflow has codes that mean nothing: it is rounded. Tiles are the same
/// whatever slices a matrix is cut into.
void solve_tile(const Item& item, const GptqSettings& settings) {
  SolveTask& task = *item.task;
  solve_tile_with(usable_factor(task), item, settings);
  if (usable_factor(task) == nullptr) return;
  const std::span errors =
      std::span(task.error).subspan(item.first, std::min(kRowTile, task.weight.rows - item.first));
  if (std::ranges::all_of(errors, [](double error) { return std::isfinite(error); })) return;
  solve_tile_with(nullptr, item, settings);
  std::ranges::fill(errors, std::numeric_limits<double>::infinity());
}

/// Norms and round-to-nearest errors of every kErrorRowStride-th row.
void sample_norms(const Item& item, const GptqSettings& settings) {
  SolveTask& task = *item.task;
  GptqSettings plain = settings;  // rounding to nearest as everyone knows it
  plain.scale_search = ScaleSearch::absmax;
  const auto rows_of = [&](const Factor* factor) {
    TileJob rows = common_job(task, factor, plain);
    rows.sweeps = rows.coupled_sweeps = 0;
    rows.rows = ceil_div(std::min(kNormSpan, task.weight.rows - item.first), kErrorRowStride);
    const MatrixView<const float> aim = aim_of(task);
    rows.weight = aim.data + item.first * aim.stride;
    rows.stride = aim.stride * kErrorRowStride;
    return rows;
  };
  NormJob job{.rows = rows_of(usable_factor(task)), .rounding = rows_of(nullptr)};
  job.rows.workspace = job.rounding.workspace = tile_memory({&job.rows, &job.rounding});
  double norm[kRowTile];
  double error[kRowTile];
  job.norm = norm;
  job.error_rtn = error;
  tile_kernel().norms(job);
  for (Index i = 0; i < job.rows.rows; ++i) {
    const auto row = static_cast<std::size_t>(item.first + i * kErrorRowStride);
    task.norm[row] = norm[i];
    task.error_rtn[row] = error[i];
  }
}

/// Squared error of rounding a whole matrix to one grid.
double tensor_error(const Scheme& scheme, const Grid& grid, MatrixView<const float> weight) {
  const RowGrid<float> row_grid{grid.scale, 1 / grid.scale, grid.zero};
  double total = 0;
  for (Index r = 0; r < weight.rows; ++r) {
    const float* row = weight.row(r).data();
    const float error = scheme.is_float() ? rounding_error(float_levels(scheme.element), row_grid,
                                                           row, weight.columns, nullptr)
                                          : rounding_error(IntegerLevels{grid_rule(scheme).top},
                                                           row_grid, row, weight.columns, nullptr);
    total += static_cast<double>(error);
  }
  return total;
}

}  // namespace

void solve(std::span<SolveTask> tasks, const GptqSettings& settings) {
  std::vector<Item> items;
  for (SolveTask& task : tasks) prepare(task);
  form_targets(tasks, [](const Factor& factor) {
    return WholeFactor{factor_upper(factor), cpu_factor(factor).order};
  });
  for (SolveTask& task : tasks) {
    if (task.weight.columns == 0) continue;
    for (Index r = 0; usable_factor(task) != nullptr && r < task.weight.rows; r += kNormSpan) {
      items.push_back({&task, r, true});
    }
    for (Index r = 0; r < task.weight.rows; r += kRowTile) items.push_back({&task, r, false});
  }
  parallel_for(std::ssize(items), [&](Index i) {
    const Item& item = items[i];
    if (item.norms) return sample_norms(item, settings);
    solve_tile(item, settings);
    compare_rows(*item.task, item.first, std::min(kRowTile, item.task->weight.rows - item.first));
  });
  parallel_for(std::ssize(tasks), [&](Index i) { count_scales(tasks[i]); });
}

Grid fit_tensor_grid(const Scheme& scheme, MatrixView<const float> weight, ScaleSearch search) {
  float minimum = 0;
  float maximum = 0;
  for (Index r = 0; r < weight.rows; ++r) {
    for (const float value : weight.row(r)) {
      minimum = std::min(minimum, value);
      maximum = std::max(maximum, value);
    }
  }
  Grid best = fit_grid(scheme, minimum, maximum);
  if (search == ScaleSearch::absmax) return best;
  double least = tensor_error(scheme, best, weight);
  for (const float shrink : {0.95F, 0.9F, 0.85F, 0.8F, 0.7F, 0.6F, 0.5F, 0.4F, 0.3F}) {
    const Grid grid = fit_grid(scheme, minimum * shrink, maximum * shrink);
    const double error = tensor_error(scheme, grid, weight);
    if (error < least) {
      least = error;
      best = grid;
    }
  }
  return best;
}

QuantizedMatrix round_to_nearest(MatrixView<const float> weight, const Scheme& scheme) {
  SolveTask task{.weight = weight, .scheme = scheme};
  if (scheme.group_size == kPerTensor)
    task.tensor_grid = fit_tensor_grid(scheme, weight, ScaleSearch::absmax);
  if (scheme.is_nvfp4()) {
    float absmax = 0;
    for (Index r = 0; r < weight.rows; ++r)
      absmax = std::max(absmax, largest_magnitude(weight.row(r)));
    task.global_scale = fit_global_scale(scheme, absmax);
  }
  GptqSettings settings;
  settings.scale_search = ScaleSearch::absmax;
  solve({&task, 1}, settings);
  return std::move(task.result);
}

namespace {

/// Everything on the threads of aq::parallel_for.
class CpuSolver final : public Solver {
 public:
  std::string name() const override { return "CPU"; }

  void add_tokens(WeightedSum& sum, MatrixView<const float> x, std::span<const std::int32_t> rows,
                  std::span<const float> weights, double weight_sum) const override {
    Matrix scaled = Matrix::uninitialized(rows.empty() ? x.rows : std::ssize(rows), x.columns);
    gather_scaled_reversed(x, rows, weights, scaled.view());
    accumulate_hessian(sum, scaled.view(), weight_sum, true);
  }

  void add_cross(WeightedSum& sum, MatrixView<const float> d, MatrixView<const float> x,
                 std::span<const std::int32_t> rows, std::span<const float> weights,
                 double weight_sum) const override {
    accumulate_cross(sum, gather_cross(d, x, rows, weights), weight_sum);
  }

  Index tasks_at_once() const override { return thread_count(); }

  void factorize(std::span<FactorTask> tasks, const GptqSettings& settings) const override {
    parallel_for(std::ssize(tasks), [&](Index i) {
      FactorTask& task = tasks[i];
      {
        const WeightedSum sum = std::move(task.sum);  // freed as soon as it is factored
        task.factor = aq::factorize(sum, task.columns, settings);
      }
      take_cross(task);
    });
  }

  void solve(std::span<SolveTask> tasks, const GptqSettings& settings) const override {
    aq::solve(tasks, settings);
  }

  FactorHeader header_of(const Factor& factor) const override {
    const FactorFacts& facts = factor;
    FactorHeader header{facts, {}};
    if (factor.data) {
      const CpuFactor& f = cpu_factor(factor);
      header.sizes = {std::ssize(f.u), std::ssize(f.h), std::ssize(f.diagonal), std::ssize(f.order),
                      lack_size(factor)};
    }
    return header;
  }

  Factor make_factor(const FactorHeader& header) const override {
    if (!header.facts.usable()) return {header.facts};
    const auto f = std::make_shared<CpuFactor>();
    f->u.resize(header.sizes[0]);
    f->h.resize(header.sizes[1]);
    f->diagonal.resize(header.sizes[2]);
    f->order.resize(header.sizes[3]);
    return {header.facts, f, room_for_lack(header)};
  }

  std::vector<Buffer> arrays_of(Factor& factor) const override {
    std::vector<Buffer> arrays;
    if (!factor.data) return arrays;
    auto& f = static_cast<CpuFactor&>(*factor.data);
    for (const Buffer& array :
         {host_buffer(std::span(f.u)), host_buffer(std::span(f.h)),
          host_buffer(std::span(f.diagonal)), host_buffer(std::span(f.order)), lack_buffer(factor)})
      if (!array.empty()) arrays.push_back(array);
    return arrays;
  }
};

}  // namespace

const Solver& cpu_solver() {
  static const CpuSolver solver;
  return solver;
}

}  // namespace aq
