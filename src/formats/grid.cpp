#include "aq/formats/grid.h"

#include "aq/formats/grid_math.h"

namespace aq {

Grid fit_grid(const Scheme& scheme, float minimum, float maximum) {
  Grid grid;
  fit_grid_inline(grid_rule(scheme), minimum, maximum, grid.scale, grid.zero);
  return grid;
}

std::uint8_t encode(const Scheme& scheme, const Grid& grid, float value) {
  const float low = -grid.zero;
  const float high = static_cast<float>((1 << scheme.bits) - 1) - grid.zero;
  float position = value * (1 / grid.scale);
  position = position > low ? position : low;  // also a NaN
  position = position < high ? position : high;
  return static_cast<std::uint8_t>(round_to_even(position) + grid.zero);
}

float decode(const Grid& grid, std::uint8_t code) {
  return (static_cast<float>(code) - grid.zero) * grid.scale;
}

}  // namespace aq
