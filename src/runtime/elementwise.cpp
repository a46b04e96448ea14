/// Embedding, norm, bias and activations: bound by memory, so each is one pass.

#include <algorithm>
#include <cmath>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
void embed(MatrixView<const float> table, std::span<const std::int32_t> tokens,
           MatrixView<float> out) {
  AQ_CHECK(out.columns == table.columns && out.rows == std::ssize(tokens), "out [", out.rows, ", ",
           out.columns, "], table [", table.rows, ", ", table.columns, "], tokens ", tokens.size());
  for (Index t = 0; t < out.rows; ++t) {
    const std::int32_t token = tokens[t];
    AQ_CHECK(token >= 0 && token < table.rows, "token ", token, " of ", table.rows);
    std::ranges::copy(table.row(token), out.row(t).begin());
  }
}

void rms_norm(MatrixView<const float> x, std::span<const float> weight, double eps,
              MatrixView<float> out) {
  AQ_CHECK(out.rows == x.rows && out.columns == x.columns && std::ssize(weight) == x.columns, "x [",
           x.rows, ", ", x.columns, "], out [", out.rows, ", ", out.columns, "], weight ",
           weight.size());
  for (Index t = 0; t < x.rows; ++t) {
    const float* row = x.row(t).data();
    const double mean = sum_of_squares(row, x.columns) / static_cast<double>(x.columns);
    const auto factor = static_cast<float>(1.0 / std::sqrt(mean + eps));
    scale_by(row, factor, weight.data(), x.columns, out.row(t).data());
  }
}

void add_bias(std::span<const float> bias, MatrixView<float> x) {
  AQ_CHECK(std::ssize(bias) == x.columns, "bias ", bias.size(), ", columns ", x.columns);
  for (Index t = 0; t < x.rows; ++t) add(x.row(t).data(), bias.data(), x.columns);
}

void gated_activation(const GatedActivation& activation, MatrixView<float> gate,
                      MatrixView<const float> up) {
  AQ_CHECK(gate.rows == up.rows && gate.columns == up.columns, "gate [", gate.rows, ", ",
           gate.columns, "], up [", up.rows, ", ", up.columns, "]");
  const auto limit = static_cast<float>(activation.limit);
  const auto alpha = static_cast<float>(activation.alpha);
  for (Index t = 0; t < gate.rows; ++t) {
    float* row = gate.row(t).data();
    if (activation.clamped)
      clamped_multiply(row, up.row(t).data(), limit, alpha, gate.columns);
    else
      silu_multiply(row, up.row(t).data(), gate.columns);
  }
}

void apply_sigmoid(MatrixView<float> x) {
  for (Index t = 0; t < x.rows; ++t)
    for (float& value : x.row(t))
      value = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(value))));
}

}  // namespace aq::runtime
