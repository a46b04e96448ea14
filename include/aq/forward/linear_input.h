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
  /// Of all rows at once, or of each range of all tokens, which is offloaded.
  Tensor operator()(const Tensor& x) const;
  Tensor operator()(const Tensor& x, std::span<const Range> ranges) const;

  std::vector<float> weight;
  double eps;
};

/// Rows of x, or their norm, which is computed where rows are needed and never kept whole.
struct LinearInput {
  const Tensor& x;
  std::optional<RmsNorm> norm = std::nullopt;

  /// As float32.
  Tensor rows(Range range) const;
};

}  // namespace aq
