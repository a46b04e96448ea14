#pragma once
/// The grid of a group: by its range, or the best of a few candidates. Written once for every
/// processor, as grid_math.h is.

#include "aq/formats/grid_math.h"

namespace aq {

/// Scales that a search tries: ranges shrunk in steps of 3 % to 31 %.
inline constexpr int kShrinks = 24;
inline constexpr float kShrinkStep = 0.03F;

/// What fitting the grids of a matrix needs to know.
struct GridSearch {
  GridRule rule;
  bool search = false;      ///< the best of several scales, not that of the range
  bool both_signs = false;  ///< a search tries negative scales too: levels are not symmetric
  bool best_power = false;  ///< E8M0: the best of neighbouring exponents, not that of the rule
};

/// Candidates, the first being the one that keeps the range.
AQ_HOST_DEVICE int candidate_count(const GridSearch& grids) {
  if (grids.rule.scale_type == ScaleType::e8m0) {
    if (!grids.best_power) return 1;
    return grids.search ? 3 : 2;
  }
  if (!grids.search) return 1;
  return grids.both_signs ? 2 * kShrinks : kShrinks;
}

/// Candidate `number` of one row with values in [low, high]. E8M0 has few scales: the exponent of
/// OCP MX, one more, one less.
AQ_HOST_DEVICE void candidate_grid(const GridSearch& grids, int number, float low, float high,
                                   float& scale, float& zero) {
  if (grids.rule.scale_type != ScaleType::e8m0) {
    const float shrink = 1 - static_cast<float>(number % kShrinks) * kShrinkStep;
    fit_grid_inline(grids.rule, low * shrink, high * shrink, scale, zero);
    if (number >= kShrinks) scale = -scale;
    return;
  }
  fit_grid_inline(grids.rule, low, high, scale, zero);
  const float power = number == 0 ? scale : number == 1 ? scale * 2 : scale * 0.5F;
  if (power >= 0x1p-127F && power <= 0x1p127F) scale = power;
}

}  // namespace aq
