#include "quant/damped_sum.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "aq/core/finite.h"
#include "quant/hessian_panels.h"

namespace aq {
namespace {

/// Reads the diagonal of the sum: mean over live channels, and which are dead.
/// @return false when there is nothing to divide by
bool inspect_diagonal(const WeightedSum& sum, FactorFacts& facts) {
  double total = 0;
  for (Index i = 0; i < facts.columns; ++i) {
    const HessianPanel panel = hessian_panel(facts.columns, i / kHessianPanel);
    const Index at = panel.row_offset(i) + i - panel.first;
    const double value = sum.values[at];
    if (value == 0) ++facts.dead_channels;
    total += value;
  }
  const Index live = facts.columns - facts.dead_channels;
  if (live == 0) return false;
  facts.mean_diagonal = total / sum.weight_sum / static_cast<double>(live);
  return std::isfinite(facts.mean_diagonal) && facts.mean_diagonal > 0;
}

}  // namespace

RtnReason examine(const WeightedSum& sum, Index columns, FactorFacts& facts) {
  facts.columns = columns;
  facts.weight_sum = sum.weight_sum;
  facts.tokens = sum.tokens;
  if (sum.empty() || sum.values.empty()) return RtnReason::no_tokens;
  AQ_CHECK(std::ssize(sum.values) == hessian_size(columns), sum.values.size(), " floats");
  if (!std::isfinite(sum.weight_sum) || !all_finite(sum.values)) return RtnReason::not_finite;
  if (!(sum.weight_sum > 0) || !inspect_diagonal(sum, facts)) return RtnReason::no_input;
  return RtnReason::none;
}

double damping_of(const FactorFacts& facts, const GptqSettings& settings) {
  return settings.damping + settings.few_tokens_damping * static_cast<double>(facts.columns) /
                                static_cast<double>(facts.tokens);
}

Factor not_usable(const FactorFacts& facts, RtnReason reason) {
  Factor factor{facts};
  factor.damping = 0;
  factor.fallback = Fallback::rtn;
  factor.rtn_reason = reason;
  return factor;
}

float NaturalSum::operator()(Index i, Index j) const {
  const Index r = columns_ - 1 - std::min(i, j);
  const Index c = columns_ - 1 - std::max(i, j);
  const HessianPanel panel = hessian_panel(columns_, c / kHessianPanel);
  return sum_.values[panel.row_offset(r) + c - panel.first];
}

std::vector<float> damped_diagonal(const WeightedSum& sum, const FactorFacts& facts,
                                   double damping) {
  const NaturalSum natural(sum, facts.columns);
  const float scale = static_cast<float>(1 / sum.weight_sum);
  std::vector<float> diagonal;
  for (Index i = 0; i < facts.columns; ++i)
    diagonal.push_back(damped(natural(i, i) * scale, facts, damping));
  return diagonal;
}

std::vector<std::int32_t> falling_order(const std::vector<float>& diagonal) {
  std::vector<std::int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return diagonal[a] > diagonal[b]; });
  return order;
}

}  // namespace aq
