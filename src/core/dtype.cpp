#include "aq/core/dtype.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace aq {

Index dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::f8_e4m3:
    case DType::u8:
      return 1;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::f8_e4m3:
      return "F8_E4M3";
    case DType::u8:
      return "U8";
  }
  return "?";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::u8})
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1f;
  const std::uint32_t fraction = bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000 | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // subnormal: exact
  return sign != 0 ? -magnitude : magnitude;
}

std::uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00);
  if (magnitude < 0x1p-14f)  // subnormal: steps of 2^-24, rounded to nearest even
    return static_cast<std::uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24f)));
  const std::uint32_t rounded = (bits & 0x7fffffff) + 0xfff + ((bits >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

float f8_e4m3_to_float(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15, fraction = bits & 7;
  float magnitude = std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  if (exponent == 0) magnitude = static_cast<float>(fraction) * 0x1p-9f;
  if ((bits & 0x7f) == 0x7f) magnitude = std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

float e8m0_to_float(std::uint8_t bits) {
  if (bits == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(bits == 0 ? 0x00400000U : static_cast<std::uint32_t>(bits) << 23);
}

std::uint8_t float_to_e8m0(float value) {
  return static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 23);
}

namespace {

/// The value of every byte.
const std::array<float, 256>& byte_table(DType dtype) {
  const auto make = [](auto value) {
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < 256; ++i) table[i] = value(static_cast<std::uint8_t>(i));
    return table;
  };
  static const auto f8 = make(f8_e4m3_to_float);
  static const auto u8 = make([](std::uint8_t bits) { return static_cast<float>(bits); });
  return dtype == DType::f8_e4m3 ? f8 : u8;
}

}  // namespace

void to_float(DType dtype, const void* source, Index count, float* out) {
  const auto* bytes = static_cast<const unsigned char*>(source);
  if (dtype == DType::f32) {
    std::memcpy(out, bytes, static_cast<std::size_t>(count) * 4);
    return;
  }
  if (dtype_size(dtype) == 1) {
    const std::array<float, 256>& table = byte_table(dtype);
    for (Index i = 0; i < count; ++i) out[i] = table[bytes[i]];
    return;
  }
  for (Index i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = dtype == DType::f16 ? f16_to_float(bits) : bf16_to_float(bits);
  }
}

}  // namespace aq
