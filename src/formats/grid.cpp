#include "aq/formats/grid.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "aq/formats/grid_math.h"

namespace aq {
namespace {

/// Rounds `values` to the grid and back.
void round_group(const Scheme& scheme, const Grid& grid, std::span<float> values) {
  const float inverse = 1 / grid.scale;
  if (scheme.is_float()) {
    const FloatLevels levels = float_levels(scheme.element);
    for (float& value : values) value = round_to_element(levels, value * inverse) * grid.scale;
    return;
  }
  const float low = -grid.zero;
  const float high = grid_rule(scheme).top - grid.zero;
  for (float& value : values)
    value = round_to_even(smaller(larger(value * inverse, low), high)) * grid.scale;
}

}  // namespace

Grid fit_grid(const Scheme& scheme, float minimum, float maximum, ScaleRule rule,
              float global_scale) {
  Grid grid;
  fit_grid_inline(grid_rule(scheme, rule, global_scale), minimum, maximum, grid.scale, grid.zero);
  return grid;
}

std::uint8_t encode(const Scheme& scheme, const Grid& grid, float value) {
  if (scheme.is_float()) return nearest_element(scheme.element, value * (1 / grid.scale));
  const float low = -grid.zero;
  const float high = static_cast<float>((1 << scheme.bits) - 1) - grid.zero;
  float position = value * (1 / grid.scale);
  position = position > low ? position : low;  // also a NaN
  position = position < high ? position : high;
  return static_cast<std::uint8_t>(round_to_even(position) + grid.zero);
}

float decode(const Scheme& scheme, const Grid& grid, std::uint8_t code) {
  if (scheme.is_float()) return element_value(scheme.element, code) * grid.scale;
  return (static_cast<float>(code) - grid.zero) * grid.scale;
}

float largest_magnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = larger(std::abs(value), largest);
  return largest;
}

float fit_global_scale(const Scheme& scheme, float absmax) {
  if (!scheme.is_nvfp4() || !(absmax > 0)) return 1;
  const float ideal = float_element(Element::e4m3).largest * float_element(scheme.element).largest /
                      std::max(absmax, 0x1p-100F);
  return power_part(ideal) / 2;
}

void simulate_dynamic(const Scheme& scheme, MatrixView<float> values) {
  AQ_CHECK(scheme.group_size != kPerTensor, "activations per tensor");
  const Index width = group_width(scheme, values.columns);
  for (Index r = 0; r < values.rows; ++r) {
    const std::span<float> row = values.row(r);
    const GridRule rule =
        grid_rule(scheme, ScaleRule::ocp,
                  scheme.is_nvfp4() ? fit_global_scale(scheme, largest_magnitude(row)) : 1.0F);
    for (Index c = 0; c < values.columns; c += width) {
      const std::span<float> group = row.subspan(c, std::min(width, values.columns - c));
      const float largest = largest_magnitude(group);
      Grid grid;
      fit_grid_inline(rule, -largest, largest, grid.scale, grid.zero);
      round_group(scheme, grid, group);
    }
  }
}

}  // namespace aq
