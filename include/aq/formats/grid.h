#pragma once
/// The grid of one group: fitted to its range, and the slow, obvious codec.

#include <cstdint>

#include "aq/formats/scheme.h"

namespace aq {

/// value = (code - zero) * scale.
struct Grid {
  float scale = 1;  ///< as stored (a value of the scheme's scale type), > 0
  float zero = 0;   ///< an integer in [0, 2^bits)
};

/// Smallest grid that holds [minimum, maximum] (compressed-tensors' min-max observer).
/// Symmetric: scale = absmax / ((2^bits - 1) / 2), with fp32 scales divided by 0.01 less, so that
/// the largest element never lies exactly on a tie. Asymmetric: the range is widened to hold 0.
/// A group of zeros gets scale 1.
Grid fit_grid(const Scheme& scheme, float minimum, float maximum);

/// clamp(round(value / scale) + zero), ties to even, computed as value * (1 / scale).
std::uint8_t encode(const Scheme& scheme, const Grid& grid, float value);
float decode(const Grid& grid, std::uint8_t code);

}  // namespace aq
