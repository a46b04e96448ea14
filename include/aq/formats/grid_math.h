#pragma once
/// The arithmetic of a grid, written once for every processor: plain code, vector kernels compiled
/// for several instruction sets, and device code. No standard library and always inlined, so that
/// code compiled for one instruction set is never called by another.

#include <bit>
#include <cstdint>

#include "aq/formats/element.h"
#include "aq/formats/scheme.h"

namespace aq {

/// What fitting a grid needs to know of a scheme.
struct GridRule {
  float top = 15;            ///< integers: largest code, 2^bits - 1
  float divisor = 7.5F;      ///< symmetric: scale = absmax / divisor
  float middle = 8;          ///< integers: the zero of a symmetric scheme, 2^(bits-1); floats: 0
  int largest_exponent = 2;  ///< floats: floor(log2(largest value)), "emax" of OCP MX
  bool symmetric = true;
  bool ceil = false;  ///< E8M0: see ScaleRule; `best` is found by trying both
  ScaleType scale_type = ScaleType::bf16;
  float unit = 1;  ///< stored scales count in it: nvfp4 1 / global scale, a power of two
};

/// Integers: divisor = (2^bits - 1) / 2, 0.01 less with fp32 scales (see fit_grid). Floats: the
/// largest value.
AQ_HOST_DEVICE GridRule grid_rule(const Scheme& scheme, ScaleRule scale_rule = ScaleRule::ocp,
                                  float global_scale = 1) {
  GridRule rule;
  rule.symmetric = scheme.symmetric;
  rule.scale_type = scheme.scale_type;
  rule.ceil = scale_rule == ScaleRule::ceil;
  rule.unit = 1 / global_scale;
  if (scheme.element != Element::integer) {
    rule.divisor = float_element(scheme.element).largest;
    rule.largest_exponent =
        static_cast<int>(std::bit_cast<std::uint32_t>(rule.divisor) >> 23) - 127;
    rule.middle = 0;
    return rule;
  }
  rule.top = static_cast<float>((1 << scheme.bits) - 1);
  rule.divisor = rule.top / 2 - (scheme.scale_type == ScaleType::f32 ? 0.01F : 0.0F);
  rule.middle = static_cast<float>(1 << (scheme.bits - 1));
  return rule;
}

/// 2^exponent as an E8M0 scale: the exponent is clamped to [-127, 127].
AQ_HOST_DEVICE float e8m0_scale(int exponent) {
  if (exponent <= -127) return 0x1p-127F;
  return power_of_two(exponent > 127 ? 127 : exponent);
}

/// Positive `scale` as a value of `type`; see round_scale.
AQ_HOST_DEVICE float round_scale_inline(ScaleType type, float scale) {
  float least = 0x1p-126F;
  float largest = 0x1.fffffep127F;
  int dropped = 0;            // mantissa bits that the type does not have
  float least_normal = 0;     // below it the step is constant
  float subnormal_magic = 0;  // a float of this size has that step
  if (type == ScaleType::bf16) {
    largest = 0x1.fep127F;
    dropped = 16;
  } else if (type == ScaleType::f16) {
    least = 0x1p-24F;
    largest = 65504.0F;
    dropped = 13;
    least_normal = 0x1p-14F;
    subnormal_magic = 0.5F;
  } else if (type == ScaleType::e4m3) {
    least = 0x1p-9F;
    largest = 448.0F;
    dropped = 20;
    least_normal = 0x1p-6F;
    subnormal_magic = 0x1p14F;
  } else if (type == ScaleType::e8m0) {
    least = 0x1p-127F;
    largest = 0x1p127F;
    dropped = 23;
  }
  if (scale < least_normal) {
    scale = (scale + subnormal_magic) - subnormal_magic;
  } else if (dropped > 0 && scale < largest) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(scale);
    bits += (1U << (dropped - 1)) - 1U + ((bits >> dropped) & 1U);
    bits &= ~((1U << dropped) - 1U);
    scale = std::bit_cast<float>(bits);
  }
  if (scale < least) return least;
  return scale > largest ? largest : scale;
}

/// `scale` as it is stored under this rule.
AQ_HOST_DEVICE float stored_scale(const GridRule& rule, float scale) {
  return round_scale_inline(rule.scale_type, scale / rule.unit) * rule.unit;
}

/// Nearest integer, ties to even.  @pre |value| < 2^22
AQ_HOST_DEVICE float round_to_even(float value) {
  const float magic = 0x1.8p23F;
  return (value + magic) - magic;
}

/// The E8M0 scale of a group by its largest magnitude: OCP MX 1.0, 6.3, or the least power of two
/// that keeps absmax within the element's range.
AQ_HOST_DEVICE float fit_e8m0(const GridRule& rule, float absmax) {
  const int floor_log2 = static_cast<int>(std::bit_cast<std::uint32_t>(absmax) >> 23) - 127;
  const float scale = e8m0_scale(floor_log2 - rule.largest_exponent);
  const bool saturates = absmax * (1 / scale) > rule.divisor;
  return rule.ceil && saturates && scale < 0x1p127F ? scale * 2 : scale;
}

/// See fit_grid: the scale goes to `scale`, the zero to `zero`.
AQ_HOST_DEVICE void fit_grid_inline(const GridRule& rule, float minimum, float maximum,
                                    float& scale, float& zero) {
  const float low = minimum < 0 ? minimum : 0.0F;
  const float high = maximum > 0 ? maximum : 0.0F;
  const float absmax = -low > high ? -low : high;
  scale = rule.unit;
  zero = rule.middle;
  if (rule.scale_type == ScaleType::e8m0) {
    if (absmax > 0) scale = fit_e8m0(rule, absmax);
    return;
  }
  if (rule.symmetric) {
    if (absmax > 0) scale = stored_scale(rule, absmax / rule.divisor);
    return;
  }
  if (absmax > 0) {  // divided first: the difference itself may overflow
    scale = stored_scale(rule, high / rule.top - low / rule.top);
  }
  const float position = -low * (1 / scale);
  zero = round_to_even(position < rule.top ? position : rule.top);
}

}  // namespace aq
