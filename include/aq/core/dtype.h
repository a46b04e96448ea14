#pragma once
/// Element types of stored tensors and their conversion to and from float.

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#include "aq/core/index.h"

namespace aq {

enum class DType { f32, f16, bf16, f8_e4m3, u8 };

/// Bytes of one element.
Index dtype_size(DType dtype);
/// Name as safetensors writes it: "F32", "F16", "BF16", "F8_E4M3", "U8".
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view safetensors_name);

/// Exact.
inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
/// Round to nearest even; a NaN stays a NaN.
std::uint16_t float_to_bf16(float value);
/// Exact.
float f16_to_float(std::uint16_t bits);
/// Round to nearest even; beyond 65504 becomes infinity; a NaN stays a NaN.
std::uint16_t float_to_f16(float value);

/// FP8 E4M3 without infinities (OCP 8-bit floating point, revision 1.0). Exact; 0x7f and 0xff are
/// NaN.
float f8_e4m3_to_float(std::uint8_t bits);

/// 2^(bits - 127), the scales of OCP MX; bits 255 is NaN.
float e8m0_to_float(std::uint8_t bits);
/// @pre value is a power of two from 2^-127 to 2^127
std::uint8_t float_to_e8m0(float value);

/// Converts `count` elements of `dtype` at `source` (any alignment) to floats.
void to_float(DType dtype, const void* source, Index count, float* out);

}  // namespace aq
