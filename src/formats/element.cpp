#include "aq/formats/element.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace aq {
namespace {

constexpr std::array<std::string_view, 6> kNames{"int", "e2m1", "e3m2", "e2m3", "e4m3", "e5m2"};

}  // namespace

std::string_view element_name(Element element) {
  return kNames[static_cast<std::size_t>(element)];
}

std::optional<Element> float_element_from_name(std::string_view name) {
  for (const Element element : kFloatElements)
    if (element_name(element) == name) return element;
  return std::nullopt;
}

float element_value(Element element, std::uint8_t code) {
  const FloatElement e = float_element(element);
  const int sign = code >> (e.bits - 1) & 1;
  const int mantissa = code & ((1 << e.mantissa_bits) - 1);
  const int exponent_bits = e.bits - 1 - e.mantissa_bits;
  const int exponent = code >> e.mantissa_bits & ((1 << exponent_bits) - 1);
  const bool top = exponent == (1 << exponent_bits) - 1;
  float value = std::ldexp(static_cast<float>(mantissa), 1 - e.bias - e.mantissa_bits);
  if (exponent > 0)
    value = std::ldexp(static_cast<float>(mantissa + (1 << e.mantissa_bits)),
                       exponent - e.bias - e.mantissa_bits);
  if (element == Element::e4m3 && top && mantissa == 7)
    value = std::numeric_limits<float>::quiet_NaN();
  if (element == Element::e5m2 && top)
    value = mantissa == 0 ? std::numeric_limits<float>::infinity()
                          : std::numeric_limits<float>::quiet_NaN();
  return sign == 1 ? -value : value;
}

std::uint8_t nearest_element(Element element, float value) {
  const FloatElement e = float_element(element);
  const int half = 1 << (e.bits - 1);  // codes of nonnegative values
  int best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int code = 0; code < half; ++code) {
    const double candidate = element_value(element, static_cast<std::uint8_t>(code));
    if (!std::isfinite(candidate)) continue;
    const double magnitude = std::min(std::abs(value), e.largest);
    const double distance = std::abs(magnitude - candidate);
    if (distance < least || (distance == least && code % 2 == 0)) {
      best = code;
      least = distance;
    }
  }
  return static_cast<std::uint8_t>(std::signbit(value) ? best + half : best);
}

}  // namespace aq
