#pragma once
/// The small floating-point elements of OCP Microscaling (MX) 1.0 and OCP FP8: values that a code
/// stands for, and rounding to them. Arithmetic is written once for every processor: plain code,
/// vector kernels compiled for several instruction sets, and device code.

#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#ifdef __CUDACC__
#define AQ_HOST_DEVICE __host__ __device__ __forceinline__
#define AQ_UNROLL _Pragma("unroll")
#define AQ_NO_UNROLL _Pragma("unroll 1")
#else
#define AQ_HOST_DEVICE inline __attribute__((always_inline))
#define AQ_UNROLL _Pragma("GCC unroll 8")
#define AQ_NO_UNROLL
#endif

namespace aq {

/// What a code stands for: an integer, or a float of 1 sign, e exponent and m mantissa bits.
enum class Element : std::uint8_t { integer, e2m1, e3m2, e2m3, e4m3, e5m2 };

inline constexpr std::array<Element, 5> kFloatElements{Element::e2m1, Element::e3m2, Element::e2m3,
                                                       Element::e4m3, Element::e5m2};

std::string_view element_name(Element element);  ///< "e2m1"; "int" for integers
/// The float element of that name; nothing for an unknown one.
std::optional<Element> float_element_from_name(std::string_view name);

/// value = (-1)^sign 2^(exponent - bias) (1 + mantissa / 2^m), subnormals with exponent 0.
struct FloatElement {
  int bits = 4;  ///< of a code
  int mantissa_bits = 1;
  int bias = 1;
  float largest = 6;  ///< finite; what is larger saturates
};

/// OCP MX 1.0, tables 1 to 5. Codes of E4M3 (all ones) and E5M2 (exponent all ones) that are no
/// finite numbers are never produced.
AQ_HOST_DEVICE constexpr FloatElement float_element(Element element) {
  switch (element) {
    case Element::e3m2:
      return {6, 2, 3, 28};
    case Element::e2m3:
      return {6, 3, 1, 7.5F};
    case Element::e4m3:
      return {8, 3, 7, 448};
    case Element::e5m2:
      return {8, 2, 15, 57344};
    default:
      return {4, 1, 1, 6};
  }
}

/// The value of a code, by its definition; infinite or NaN for the codes that stand for that.
float element_value(Element element, std::uint8_t code);
/// The code of the nearest value, found by looking at all of them: ties to the even code,
/// saturating, -0 kept. The slow, obvious codec.
std::uint8_t nearest_element(Element element, float value);

AQ_HOST_DEVICE float smaller(float a, float b) {
  return a < b ? a : b;
}
AQ_HOST_DEVICE float larger(float a, float b) {
  return a > b ? a : b;
}
/// 2^floor(log2 |x|); 0 for subnormal x.
AQ_HOST_DEVICE float power_part(float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7F800000U);
}
/// `magnitude` is nonnegative or has the sign of x; the result has the sign of x.
AQ_HOST_DEVICE float with_sign(float magnitude, float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) |
                              (std::bit_cast<std::uint32_t>(x) & 0x80000000U));
}

/// What rounding to a float element needs.
struct FloatLevels {
  float largest = 6;
  float least_normal = 1;   ///< 2^(1 - bias)
  float magic = 0x1.8p22F;  ///< 1.5 * 2^(23 - m): adding it to a number in [1, 2) rounds at bit m
  int mantissa_bits = 1, bias = 1, bits = 4;
};

AQ_HOST_DEVICE float power_of_two(int exponent) {  ///< @pre in the range of normal floats
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

AQ_HOST_DEVICE FloatLevels float_levels(Element element) {
  const FloatElement e = float_element(element);
  return {e.largest,
          power_of_two(1 - e.bias),
          1.5F * power_of_two(23 - e.mantissa_bits),
          e.mantissa_bits,
          e.bias,
          e.bits};
}

/// The nearest value of the element, ties to even, saturating, subnormals and -0 kept.
/// `Real` is a float or a set of vectors.
template <class Real>
AQ_HOST_DEVICE Real round_to_element(const FloatLevels& levels, Real value) {
  const Real within = smaller(larger(value, -levels.largest), levels.largest);
  // A sum of the magnitude of `magic` times a power of two has its last bit at the element's last.
  const Real magic = larger(power_part(within), levels.least_normal) * levels.magic;
  return with_sign((within + magic) - magic, value);
}

/// The code of a value of the element.
AQ_HOST_DEVICE std::uint8_t element_code(Element element, float value) {
  const FloatElement e = float_element(element);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const float least_normal = power_of_two(1 - e.bias);
  const std::uint32_t code =
      std::bit_cast<float>(magnitude) < least_normal
          ? static_cast<std::uint32_t>(std::bit_cast<float>(magnitude) *
                                       power_of_two(e.bias - 1 + e.mantissa_bits))
          : (magnitude >> (23 - e.mantissa_bits)) -
                (static_cast<std::uint32_t>(127 - e.bias) << e.mantissa_bits);
  return static_cast<std::uint8_t>(code | (bits >> 31 << (e.bits - 1)));
}

}  // namespace aq
