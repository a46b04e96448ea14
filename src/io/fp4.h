#pragma once
/// Values of the FP4 E2M1 codes (OCP MX 1.0, section 5.3.3).

#include <array>

#include "aq/formats/element.h"

namespace aq {

inline const std::array<float, 16>& fp4_values() {
  static const std::array<float, 16> values = [] {
    std::array<float, 16> all{};
    for (std::uint8_t code = 0; code < 16; ++code) all[code] = element_value(Element::e2m1, code);
    return all;
  }();
  return values;
}

}  // namespace aq
