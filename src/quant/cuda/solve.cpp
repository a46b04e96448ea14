#include "quant/cuda/solve.h"

#include <cmath>
#include <limits>

#include "quant/cpu/solver.h"
#include "quant/cuda/batch.h"
#include "quant/cuda/factor.h"
#include "quant/solve_task.h"
#include "quant/target.h"

namespace aq::cuda {
namespace {

/// Columns [begin, end).
struct Columns {
  Index begin, end;
  Index width() const { return end - begin; }
};

/// Calls body(columns) for the pieces of `all`.
template <class Body>
void for_pieces(Columns all, Index width, const Body& body) {
  for (Index begin = all.begin; begin < all.end; begin += width)
    body(Columns{begin, std::min(all.end, begin + width)});
}

template <class Levels>
class BatchSolver {
 public:
  BatchSolver(Batch& batch, const Levels& levels) : batch_(batch), levels_(levels) {}

  void solve() {
    if (!batch_.fits_on_the_way())
      fit(batch_.view(), batch_.view().weight, batch_.view().stride, 0, batch_.view().groups);
    for_pieces(all(), batch_.gptq_cut().run, [&](Columns run) { solve_run(run); });
    batch_.restore_order();
    if (batch_.refines()) form_error(all());
    sweep(false);
    if (batch_.couples()) sweep(true);
  }

 private:
  Columns all() const { return {0, batch_.view().columns}; }
  Accelerator& device() const { return batch_.device(); }

  void fit(const BatchView& view, const float* values, Index stride, Index first, Index count) {
    device().launch(
        FitGroups<Levels>{levels_, view, values, stride, first, count},
        {ceil_div(view.rows * count, Index{FitGroups<Levels>::kThreads}), batch_.size()});
  }

  template <class Kernel>
  void over_tiles(const Kernel& kernel) {
    device().launch(kernel, {batch_.view().rows / kTile, batch_.size()});
  }

  void form_error(Columns columns) {
    device().launch(FormError{batch_.view(), columns.begin, columns.width()},
                    {batch_.view().rows, batch_.size()});
  }

  /// s of a run from all columns before it.
  void form_sums(Columns run) {
    if (!batch_.view().has_factor) return;
    if (run.begin == 0) return batch_.clear_sums();
    batch_.errors_times_upper(run.begin, run.begin, run.width(), 0, run.begin);
  }

  void solve_blocks(Columns run, Grids grids) {
    const BatchView view = batch_.ordered_view();
    for_pieces(run, batch_.gptq_cut().block, [&](Columns block) {
      if (view.has_factor && block.begin > run.begin)
        batch_.errors_times_upper(run.begin, block.begin, block.width(), run.begin, block.begin);
      over_tiles(SolveBlock<Levels>{levels_, view, block.begin, block.width(), run.begin, grids,
                                    batch_.values(), run.begin});
    });
  }

  void solve_run(Columns run) {
    form_sums(run);
    if (!batch_.fits_on_the_way()) return solve_blocks(run, Grids::known);
    if (batch_.view().group <= kBlock) return solve_blocks(run, Grids::fit);
    solve_blocks(run, Grids::explore);
    fit(batch_.view(), batch_.values(), batch_.view().group, run.begin / batch_.view().group, 1);
    form_sums(run);
    solve_blocks(run, Grids::known);
  }

  /// @param coupled  the rows of a tile together
  void sweep(bool coupled) {
    for (int number = 0; number < batch_.sweeps(); ++number)
      for_pieces(all(), batch_.refine_cut().run, [&](Columns run) { refine_run(run, coupled); });
  }

  void refine_run(Columns run, bool coupled) {
    const BatchView& view = batch_.view();
    batch_.errors_times_h(run.begin, run.width());
    const bool wide = view.group > kBlock;
    if (batch_.moves_scales() && wide) refit_wide(run, coupled);
    for_pieces(run, batch_.refine_cut().block, [&](Columns block) {
      if (block.begin > run.begin)
        batch_.add_changes_times_h(run.begin, block.begin, block.width());
      const RefinedColumns columns{view, block.begin, block.width(), run.begin,
                                   batch_.moves_scales() && !wide};
      if (coupled)
        over_tiles(RefineCoupled<Levels>{levels_, columns});
      else
        over_tiles(RefineBlock<Levels>{levels_, columns});
    });
    form_error(run);
  }

  /// The scales of the group that the run is.
  void refit_wide(Columns run, bool coupled) {
    const BatchView& view = batch_.view();
    const Index group = run.begin / view.group;
    batch_.levels_times_h(run.begin, run.width());
    if (coupled)
      over_tiles(RefitCoupledWide{view, batch_.images(), group});
    else
      device().launch(RefitWide{view, batch_.images(), group}, {view.rows, batch_.size()});
  }

  Batch& batch_;
  Levels levels_;
};

void solve_batch(Accelerator& device, std::span<SolveTask* const> tasks,
                 const GptqSettings& settings) {
  Batch batch(device, tasks, settings);
  with_levels(tasks.front()->scheme,
              [&](const auto& levels) { BatchSolver(batch, levels).solve(); });
  if (batch.view().has_factor) batch.sample();
  batch.finish();
}

/// A tile whose errors overflow has codes that mean nothing: it is rounded.
void round_overflowed_tiles(SolveTask& task, const GptqSettings& settings) {
  for (Index first = 0; first < std::ssize(task.error); first += kRowTile) {
    const Index count = std::min(kRowTile, task.weight.rows - first);
    const auto errors =
        std::span(task.error)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    if (std::ranges::all_of(errors, [](double error) { return std::isfinite(error); })) continue;
    SolveTask tile{.weight = task.weight.slice_rows(first, count),
                   .first_row = task.first_row + first,
                   .scheme = task.scheme,
                   .scale_rule = task.scale_rule,
                   .tensor_grid = task.tensor_grid,
                   .global_scale = task.global_scale};
    cpu_solver().solve({&tile, 1}, settings);
    const auto put = [first](const auto& from, Index per_row, auto& to) {
      std::ranges::copy(from, to.begin() + first * per_row);
    };
    const QuantizedMatrix& rows = tile.result;
    put(rows.codes, words_per_row(task.scheme.bits, task.weight.columns), task.result.codes);
    if (task.scheme.group_size != kPerTensor) {
      const Index groups = group_count(task.scheme, task.weight.columns);
      put(rows.scales, groups, task.result.scales);
      put(rows.zeros, groups, task.result.zeros);
    }
    put(tile.weight_error, 1, task.weight_error);
    put(tile.weight_norm, 1, task.weight_norm);
    std::ranges::fill(errors, std::numeric_limits<double>::infinity());
  }
}

/// Whether two tasks can be in one batch.
bool alike(const SolveTask& a, const SolveTask& b) {
  return round_up(a.weight.rows, kRowTile) == round_up(b.weight.rows, kRowTile) &&
         a.weight.columns == b.weight.columns && a.scheme == b.scheme && a.refine == b.refine &&
         (a.output_factor.rows == 0) == (b.output_factor.rows == 0) &&
         (usable_factor(a) == nullptr) == (usable_factor(b) == nullptr);
}

}  // namespace

void solve(Accelerator& device, std::span<SolveTask> tasks, const GptqSettings& settings) {
  for (SolveTask& task : tasks) prepare(task);
  form_targets(tasks, whole_factor);
  std::vector<SolveTask*> left;
  for (SolveTask& task : tasks) {
    if (task.weight.rows > 0 && task.weight.columns > 0) left.push_back(&task);
  }
  while (!left.empty()) {
    const SolveTask& first = *left.front();
    const auto rest = std::stable_partition(
        left.begin(), left.end(), [&](const SolveTask* task) { return alike(first, *task); });
    solve_batch(device, {left.begin(), rest}, settings);
    left.erase(left.begin(), rest);
  }
  for (SolveTask& task : tasks) {
    if (usable_factor(task) != nullptr) round_overflowed_tiles(task, settings);
    count_scales(task);
  }
}

}  // namespace aq::cuda
