#pragma once
/// A mean with its standard error.

#include <optional>
#include <span>

#include "aq/core/index.h"

namespace aq {

struct Estimate {
  double mean = 0;
  std::optional<double> standard_error = std::nullopt;  ///< nothing: one window tells none
};

/// Σ sums / Σ counts, of windows that are drawn independently and hold different counts: the ratio
/// estimate, with the standard error that follows from its linearisation (Cochran, Sampling
/// Techniques, 3rd ed., section 2.11). For equal counts it is that of the mean of the windows'
/// means.
/// @pre sums.size() == counts.size(), and a count above 0
Estimate ratio_estimate(std::span<const double> sums, std::span<const Index> counts);

}  // namespace aq
