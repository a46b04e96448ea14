#pragma once
/// The arithmetic of a grid, written once for every processor: plain code, vector kernels compiled
/// for several instruction sets, and device code. No standard library and always inlined, so that
/// code compiled for one instruction set is never called by another.

#include <bit>
#include <cstdint>

#include "aq/formats/scheme.h"

#ifdef __CUDACC__
#define AQ_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define AQ_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace aq {

/// What fitting a grid needs to know of a scheme.
struct GridRule {
  float top = 15;        ///< largest code, 2^bits - 1
  float divisor = 7.5F;  ///< symmetric: scale = absmax / divisor
  float middle = 8;      ///< the zero of a symmetric scheme, 2^(bits-1)
  bool symmetric = true;
  ScaleType scale_type = ScaleType::bf16;
};

/// Symmetric: divisor = (2^bits - 1) / 2, 0.01 less with fp32 scales (see fit_grid).
AQ_HOST_DEVICE GridRule grid_rule(const Scheme& scheme) {
  GridRule rule;
  rule.top = static_cast<float>((1 << scheme.bits) - 1);
  rule.divisor = rule.top / 2 - (scheme.scale_type == ScaleType::f32 ? 0.01F : 0.0F);
  rule.middle = static_cast<float>(1 << (scheme.bits - 1));
  rule.symmetric = scheme.symmetric;
  rule.scale_type = scheme.scale_type;
  return rule;
}

/// Positive `scale` as a value of `type`; see round_scale.
AQ_HOST_DEVICE float round_scale_inline(ScaleType type, float scale) {
  const float least = type == ScaleType::f16 ? 0x1p-24F : 0x1p-126F;
  const float largest = type == ScaleType::f32    ? 0x1.fffffep127F
                        : type == ScaleType::bf16 ? 0x1.fep127F
                                                  : 65504.0F;
  if (type == ScaleType::f16 && scale < 0x1p-14F) {
    scale = (scale + 0.5F) - 0.5F;  // a float near 0.5 has the step of an fp16 subnormal, 2^-24
  } else if (type != ScaleType::f32 && scale < largest) {
    const int dropped = type == ScaleType::bf16 ? 16 : 13;
    std::uint32_t bits = std::bit_cast<std::uint32_t>(scale);
    bits += (1U << (dropped - 1)) - 1U + ((bits >> dropped) & 1U);
    bits &= ~((1U << dropped) - 1U);
    scale = std::bit_cast<float>(bits);
  }
  if (scale < least) return least;
  return scale > largest ? largest : scale;
}

/// Nearest integer, ties to even.  @pre |value| < 2^22
AQ_HOST_DEVICE float round_to_even(float value) {
  const float magic = 0x1.8p23F;
  return (value + magic) - magic;
}

/// See fit_grid: the scale goes to `scale`, the zero to `zero`.
AQ_HOST_DEVICE void fit_grid_inline(const GridRule& rule, float minimum, float maximum,
                                    float& scale, float& zero) {
  const float low = minimum < 0 ? minimum : 0.0F;
  const float high = maximum > 0 ? maximum : 0.0F;
  const float absmax = -low > high ? -low : high;
  scale = 1;
  zero = rule.middle;
  if (rule.symmetric) {
    if (absmax > 0) scale = round_scale_inline(rule.scale_type, absmax / rule.divisor);
    return;
  }
  if (absmax > 0) {  // divided first: the difference itself may overflow
    scale = round_scale_inline(rule.scale_type, high / rule.top - low / rule.top);
  }
  const float position = -low * (1 / scale);
  zero = round_to_even(position < rule.top ? position : rule.top);
}

}  // namespace aq
