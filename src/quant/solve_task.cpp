#include "quant/solve_task.h"

#include <algorithm>

namespace aq {

void prepare(SolveTask& task) {
  const MatrixView<const float>& weight = task.weight;
  AQ_CHECK(task.first_row % kRowTile == 0, "first row ", task.first_row);
  AQ_CHECK(usable_factor(task) == nullptr || task.factor->columns == weight.columns, weight.columns,
           " columns");
  AQ_CHECK(task.output_factor.rows == 0 ||
               (task.output_factor.rows == weight.rows && task.output_factor.columns == kRowTile),
           "output factor [", task.output_factor.rows, ", ", task.output_factor.columns, "]");
  task.result = make_quantized(task.scheme, weight.rows, weight.columns);
  task.result.global_scale = task.global_scale;
  if (task.scheme.group_size == kPerTensor) {
    task.result.scales.assign(1, task.tensor_grid.scale);
    if (!task.scheme.symmetric) {
      task.result.zeros.assign(1, static_cast<std::uint8_t>(task.tensor_grid.zero));
    }
  }
  const auto rows = static_cast<std::size_t>(usable_factor(task) != nullptr ? weight.rows : 0);
  task.error.assign(rows, 0);
  task.error_rtn.assign(rows, 0);
  task.norm.assign(rows, 0);
  task.weight_error.assign(weight.rows, 0);
  task.weight_norm.assign(weight.rows, 0);
}

void compare_rows(SolveTask& task, Index first, Index count) {
  Matrix stored(1, task.weight.columns);
  for (Index r = first; r < first + count; ++r) {
    dequantize(slice_rows(task.result, r, 1), stored.view());
    const std::span<const float> weight = task.weight.row(r);
    double error = 0, norm = 0;
    for (Index c = 0; c < stored.columns; ++c) {
      const double w = weight[c], difference = w - stored(0, c);
      error += difference * difference;
      norm += w * w;
    }
    task.weight_error[r] = error;
    task.weight_norm[r] = norm;
  }
}

GridSearch grid_search(const SolveTask& task, const GptqSettings& settings) {
  return {
      .rule = grid_rule(task.scheme, task.scale_rule, task.global_scale),
      .search = settings.scale_search != ScaleSearch::absmax,
      .both_signs = settings.negative_scales && task.scheme.symmetric && !task.scheme.is_float(),
      .best_power = task.scale_rule == ScaleRule::best};
}

void count_scales(SolveTask& task) {
  constexpr float kLargest = 65504, kLeast = 0x1p-24F;
  const Scheme& scheme = task.scheme;
  task.scales_above = task.scales_below = 0;
  if (scheme.scale_type != ScaleType::f16) return;
  if (scheme.group_size == kPerTensor) {
    if (task.first_row > 0) return;
    task.scales_above = task.tensor_grid.scale >= kLargest ? 1 : 0;
    task.scales_below = task.tensor_grid.scale <= kLeast ? 1 : 0;
    return;
  }
  GridRule rule = grid_rule(scheme);
  rule.scale_type = ScaleType::f32;  // as the weights ask for it
  const auto width = static_cast<std::size_t>(group_width(scheme, task.weight.columns));
  const MatrixView<const float> weights = aim_of(task);
  for (Index r = 0; r < weights.rows; ++r)
    for (std::span<const float> row = weights.row(r); !row.empty();) {
      const std::span<const float> group = row.first(std::min(row.size(), width));
      const auto [least, most] = std::ranges::minmax(group);
      float scale = 1, zero = 0;
      fit_grid_inline(rule, least, most, scale, zero);
      if (scale > kLargest * (1 + 0x1p-12F)) ++task.scales_above;
      if (scale <= kLeast / 2) ++task.scales_below;
      row = row.subspan(group.size());
    }
}

}  // namespace aq
