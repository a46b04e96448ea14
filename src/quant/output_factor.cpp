#include "quant/output_factor.h"

#include <algorithm>
#include <cmath>

namespace aq {

void take_output(FactorTask& task) {
  const WeightedSum sum = std::move(task.output);
  if (sum.empty() || !task.factor.usable()) return;
  Matrix output = Matrix::uninitialized(std::ssize(sum.values) / kRowTile, kRowTile);
  std::ranges::transform(
      sum.values, output.values.begin(),
      [scale = static_cast<float>(1 / sum.weight_sum)](float value) { return scale * value; });
  task.factor.output = std::make_shared<Matrix>(std::move(output));
}

void output_block(MatrixView<const float> rows, std::int64_t tokens, float* block) {
  const MatrixView<float> out(block, kRowTile, kRowTile);
  double trace = 0;
  for (Index r = 0; r < rows.rows; ++r) trace += static_cast<double>(rows(r, r));
  const double mean = trace / static_cast<double>(rows.rows);
  const bool counts = std::isfinite(mean) && mean > 0;
  const double damping =
      kOutputDamping +
      static_cast<double>(kRowTile) / static_cast<double>(std::max<std::int64_t>(tokens, 1));
  std::fill_n(block, kRowTile * kRowTile, 0.0F);
  for (Index r = 0; r < kRowTile; ++r) {
    out(r, r) = 1;
    if (r >= rows.rows || !counts) continue;
    for (Index c = 0; c < r; ++c)
      out(r, c) = out(c, r) = static_cast<float>(static_cast<double>(rows(r, c)) / mean);
    out(r, r) = static_cast<float>(static_cast<double>(rows(r, r)) / mean + damping);
  }
}

}  // namespace aq
