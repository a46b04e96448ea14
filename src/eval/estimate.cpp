#include "aq/eval/estimate.h"

#include <cmath>
#include <numeric>

#include "aq/core/error.h"

namespace aq {

Estimate ratio_estimate(std::span<const double> sums, std::span<const Index> counts) {
  AQ_CHECK(sums.size() == counts.size(), "sums ", sums.size(), ", counts ", counts.size());
  const auto all = static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
  AQ_CHECK(all > 0, "counts of ", counts.size(), " windows");
  Estimate result{.mean = std::accumulate(sums.begin(), sums.end(), 0.0) / all};
  if (sums.size() < 2) return result;
  double squares = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double residual = sums[i] - result.mean * static_cast<double>(counts[i]);
    squares += residual * residual;
  }
  const auto windows = static_cast<double>(sums.size());
  result.standard_error = std::sqrt(squares * windows / (windows - 1)) / all;
  return result;
}

}  // namespace aq
