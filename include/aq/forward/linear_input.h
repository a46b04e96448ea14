#pragma once
/// What linears of one group read.

#include <optional>
#include <string>
#include <vector>

#include "aq/forward/weights.h"
#include "aq/model/model.h"

namespace aq {

/// x / sqrt(mean(x²) + eps) * weight, row by row.
struct RmsNorm {
  RmsNorm(const Model& model, const Weights& weights, const std::string& name)
      : weight(weights.vector(name, model.hidden)), eps(model.norm_eps) {}
  Matrix operator()(MatrixView<const float> x) const;

  std::vector<float> weight;
  double eps;
};

/// Rows of x, or their norm, which is computed where rows are needed and never kept whole.
struct LinearInput {
  const Matrix& x;
  std::optional<RmsNorm> norm = std::nullopt;
};

}  // namespace aq
