#include "plan/cost_forward.h"

#include <algorithm>

#include "aq/runtime/workspace.h"

namespace aq {
namespace {

constexpr double kFloat = 4;
constexpr double kQueryTile = runtime::kQueryTile;

double weights_of(const LinearSpec& linear) {
  return static_cast<double>(linear.rows) * static_cast<double>(linear.columns);
}

double output_values(const TaskPlan& task) {
  return static_cast<double>(task.output_rows * kRowTile);
}

/// Of the original stream, and of the own one through original weights to see what it lacks.
double original_passes(Stage stage) {
  if (stage == Stage::gate_up || stage == Stage::down) return 3;
  return stage == Stage::o ? 2 : 1;
}

}  // namespace

ForwardUse forward_use(const QuantizeSettings& settings, Stage stage) {
  const double beside = settings.runs_original() ? original_passes(stage) : 0;
  switch (settings.sequential) {
    case Sequential::stage:
      return {1, beside};
    case Sequential::layer:  // the first pass ends where no Hessian needs it any more
      return {1, beside + (stage == Stage::down ? 0 : 1)};
    case Sequential::none:
      return {0, 1};
  }
  return {};
}

double attention_pairs(const AttentionSpec& spec, double length) {
  const double window = spec.sliding_window > 0 ? static_cast<double>(spec.sliding_window) : length;
  return std::min(length * (length + kQueryTile) / 2, length * (window + kQueryTile));
}

double attention_products(const AttentionSpec& spec, const QuantizeSettings& settings,
                          bool differentiates) {
  const double passes =
      (settings.sequential == Sequential::layer ? 2 : 1) + (settings.runs_original() ? 1 : 0);
  const auto key = static_cast<double>(spec.head_dim), value = static_cast<double>(spec.value_dim);
  return passes * (key + value) + (differentiates ? 3 * key + 2 * value : 0);
}

TaskForward forward_of(const TaskPlan& task, ForwardUse use, const CostOptions& options) {
  TaskForward once;
  const auto n = static_cast<double>(task.columns);
  if (task.needs_hessian)
    once.products =
        n * (n + 1) + 2 * n * static_cast<double>(task.cross_rows) + 2 * output_values(task);
  if (task.needs_hessian && options.keep_hessians)
    once.kept =
        (n * ((n + 1) / 2 + static_cast<double>(task.cross_rows)) + output_values(task)) * kFloat;
  for (const MatrixPlan& matrix : task.matrices) {
    const bool copied = matrix.assignment.method == Method::copy;
    const double count = weights_of(matrix.linear);
    once.weights += count * (use.quantized + use.original);
    once.unpacked += copied ? 0 : count * use.quantized * kFloat;
    once.originals +=
        count * (use.original + (copied ? use.quantized : 0)) * options.weight_bytes(matrix.linear);
  }
  return once;
}

}  // namespace aq
