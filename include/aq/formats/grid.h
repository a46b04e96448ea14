#pragma once
/// The grid of one group: fitted to its range, and the slow, obvious codec.

#include <cstdint>
#include <span>

#include "aq/core/matrix_view.h"
#include "aq/formats/scheme.h"

namespace aq {

/// Integers: value = (code - zero) * scale. Floats: value = element(code) * scale.
struct Grid {
  float scale = 1;  ///< as stored (a value of the scheme's scale type, in its unit), > 0
  float zero = 0;   ///< an integer in [0, 2^bits); unused by floats
};

/// Smallest grid that holds [minimum, maximum].
/// Integers, symmetric: scale = absmax / ((2^bits - 1) / 2) (compressed-tensors' min-max observer),
/// with fp32 scales divided by 0.01 less, so that the largest element never lies exactly on a tie.
/// Asymmetric: the range is widened to hold 0. Floats: scale = absmax / largest value. MX: a power
/// of two by `rule` (`best` counts as `ocp`: a range alone does not tell which is better).
/// A group of zeros gets scale 1 / global_scale.
Grid fit_grid(const Scheme& scheme, float minimum, float maximum, ScaleRule rule = ScaleRule::ocp,
              float global_scale = 1);

/// Integers: clamp(round(value / scale) + zero), ties to even, computed as value * (1 / scale).
/// Floats: the nearest element of value * (1 / scale), saturating.
std::uint8_t encode(const Scheme& scheme, const Grid& grid, float value);
float decode(const Scheme& scheme, const Grid& grid, std::uint8_t code);

/// The largest magnitude, 0 of nothing.
float largest_magnitude(std::span<const float> values);

/// The global scale G of an nvfp4 matrix of which no value is larger than `absmax`: a power of two,
/// so that element * scale / G is exact, and two to four times less than 448 * 6 / absmax (NVIDIA,
/// "Introducing NVFP4"), which leaves room for values that quantizing moves up. 1 for other
/// schemes.
float fit_global_scale(const Scheme& scheme, float absmax);

/// Rounds every row to the scheme and back, each group with its own absmax scale: what a server
/// does to activations on the fly. MX by the `ocp` rule; nvfp4 with a global scale a row.
/// @pre not per tensor
void simulate_dynamic(const Scheme& scheme, MatrixView<float> values);

}  // namespace aq
