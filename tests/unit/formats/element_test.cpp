/// Float elements and MX blocks against tables of ml_dtypes and numpy
/// (tools/make_format_tables.py).

#include "aq/formats/element.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "aq/core/dtype.h"
#include "aq/formats/grid.h"
#include "aq/formats/grid_math.h"
#include "aq/formats/quantized_matrix.h"
#include "test_paths.h"

namespace aq {
namespace {

using Json = nlohmann::json;

const Json& tables() {
  static const Json json = Json::parse(std::ifstream(AQ_TEST_DATA "/formats/elements.json"));
  return json;
}

std::uint8_t fast_code(Element element, float value) {
  return element_code(element, round_to_element(float_levels(element), value));
}

float bf16(std::uint32_t bits) {
  return bf16_to_float(static_cast<std::uint16_t>(bits));
}

TEST(Element, EveryElementHasATable) {
  ASSERT_EQ(tables().size(), kFloatElements.size());
  for (const Element element : kFloatElements) {
    EXPECT_TRUE(tables().contains(element_name(element)));
    EXPECT_EQ(float_element_from_name(element_name(element)), element);
  }
  EXPECT_FALSE(float_element_from_name("int"));
  EXPECT_FALSE(float_element_from_name("e8m0"));
}

TEST(Element, ValuesOfAllCodes) {
  for (const Element element : kFloatElements) {
    const Json& values = tables()[element_name(element)]["values"];
    ASSERT_EQ(values.size(), std::size_t{1} << float_element(element).bits);
    for (std::size_t code = 0; code < values.size(); ++code) {
      const float value = element_value(element, static_cast<std::uint8_t>(code));
      if (values[code].is_null()) {
        EXPECT_FALSE(std::isfinite(value)) << element_name(element) << " " << code;
        continue;
      }
      ASSERT_EQ(value, values[code].get<float>()) << element_name(element) << " " << code;
      EXPECT_EQ(std::signbit(value), code >> (float_element(element).bits - 1) == 1);  // -0 too
      EXPECT_EQ(element_code(element, value), code);
      EXPECT_EQ(nearest_element(element, value), code);
    }
  }
}

TEST(Element, AllBf16InputsRoundAsMlDtypesDoes) {
  for (const Element element : kFloatElements) {
    std::map<std::uint32_t, std::uint8_t> first;  // least input -> code
    for (const auto& [code, bits] : tables()[element_name(element)]["first_bf16"].items())
      first[bits.get<std::uint32_t>()] = static_cast<std::uint8_t>(std::stoi(code));
    const int sign = 1 << (float_element(element).bits - 1);
    for (std::uint32_t bits = 0; bits <= 0x7F80; ++bits) {
      const std::uint8_t expected = std::prev(first.upper_bound(bits))->second;
      ASSERT_EQ(fast_code(element, bf16(bits)), expected) << element_name(element) << " " << bits;
      ASSERT_EQ(fast_code(element, bf16(bits | 0x8000)), expected | sign);
      if (bits % 16 != 0) continue;  // the slow codec is slow
      ASSERT_EQ(nearest_element(element, bf16(bits)), expected);
      ASSERT_EQ(nearest_element(element, bf16(bits | 0x8000)), expected | sign);
    }
  }
}

TEST(Element, TiesAndTheirNeighbours) {
  for (const Element element : kFloatElements)
    for (const Json& pair : tables()[element_name(element)]["floats"]) {
      const float value = std::bit_cast<float>(pair[0].get<std::uint32_t>());
      EXPECT_EQ(fast_code(element, value), pair[1].get<int>()) << element_name(element) << value;
      EXPECT_EQ(nearest_element(element, value), pair[1].get<int>());
    }
}

TEST(Element, BlocksOfMxByBothRules) {
  for (const Element element : kFloatElements)
    for (const Json& block : tables()[element_name(element)]["mx_blocks"]) {
      std::vector<float> values;
      for (const Json& bits : block["bf16"]) values.push_back(bf16(bits.get<std::uint32_t>()));
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      const Scheme scheme{.element = element,
                          .bits = float_element(element).bits,
                          .group_size = 32,
                          .scale_type = ScaleType::e8m0};
      for (const ScaleRule rule : {ScaleRule::ocp, ScaleRule::ceil}) {
        const std::string name(scale_rule_name(rule));
        const Grid grid = fit_grid(scheme, *low, *high, rule);
        ASSERT_EQ(float_to_e8m0(grid.scale), block["e8m0"][name].get<int>())
            << element_name(element) << " " << name;
        for (std::size_t i = 0; i < values.size(); ++i)
          ASSERT_EQ(encode(scheme, grid, values[i]), block["codes"][name][i].get<int>());
      }
    }
}

TEST(E8m0, AllCodes) {
  for (int code = 0; code < 255; ++code) {
    const float value = e8m0_to_float(static_cast<std::uint8_t>(code));
    EXPECT_EQ(value, std::ldexp(1.0F, code - 127));
    EXPECT_EQ(float_to_e8m0(value), code);
    EXPECT_EQ(round_scale(ScaleType::e8m0, value), value);
    EXPECT_EQ(e8m0_scale(code - 127), value);
  }
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
  EXPECT_EQ(e8m0_scale(-200), 0x1p-127F);
  EXPECT_EQ(e8m0_scale(200), 0x1p127F);
}

TEST(E4m3Scale, AllPositiveValuesAndMidpoints) {
  for (int code = 1; code < 0x7E; ++code) {
    const float here = element_value(Element::e4m3, static_cast<std::uint8_t>(code));
    const float next = element_value(Element::e4m3, static_cast<std::uint8_t>(code + 1));
    EXPECT_EQ(round_scale(ScaleType::e4m3, here), here);
    EXPECT_EQ(round_scale(ScaleType::e4m3, (here + next) / 2), code % 2 == 0 ? here : next);
  }
  EXPECT_EQ(round_scale(ScaleType::e4m3, 1e-9F), 0x1p-9F);
  EXPECT_EQ(round_scale(ScaleType::e4m3, 1e9F), 448);
}

TEST(Nvfp4, GlobalScaleIsAPowerOfTwoWithRoom) {
  const Scheme scheme = *scheme_from_format("nvfp4");
  for (const float absmax : {1e-6F, 0.02F, 0.9F, 1.0F, 1.1F, 37.0F, 6e4F}) {
    const float global = fit_global_scale(scheme, absmax);
    EXPECT_EQ(power_part(global), global);
    const double room = 448.0 * 6 / (static_cast<double>(absmax) * global);
    EXPECT_GE(room, 2);
    EXPECT_LE(room, 4);
    const Grid grid = fit_grid(scheme, -absmax / 2, absmax, ScaleRule::ocp, global);
    EXPECT_EQ(round_scale(ScaleType::e4m3, grid.scale * global), grid.scale * global);
    EXPECT_NEAR(grid.scale * 6, absmax, absmax / 16);
  }
  EXPECT_EQ(fit_global_scale(scheme, 0), 1);
  EXPECT_EQ(fit_global_scale(Scheme{}, 5), 1);
}

/// Golden bytes of compressed-tensors' nvfp4 and mxfp4 packing: two codes a byte, first one low.
TEST(Packing, Fp4Nibbles) {
  const std::vector<std::uint8_t> codes{nearest_element(Element::e2m1, 0.5F),
                                        nearest_element(Element::e2m1, -6.0F)};
  std::vector<std::uint32_t> words(1);
  pack_row(4, codes, words);
  EXPECT_EQ(words[0], 0xF1U);
}

TEST(SimulateDynamic, EqualsRoundingEveryGroupByHand) {
  for (const std::string_view name : format_names()) {
    Scheme scheme = *scheme_from_format(name);
    if (!scheme.is_mx() && !scheme.is_nvfp4()) scheme.scale_type = ScaleType::f32;
    for (const Index group : {scheme.group_size, kPerChannel}) {
      if (scheme.is_nvfp4() || scheme.is_mx() ? group == kPerChannel : false) continue;
      scheme.group_size = group;
      Matrix values(3, 150);
      for (Index i = 0; i < 450; ++i)
        values.values[i] =
            std::sin(static_cast<float>(i * i % 101)) * static_cast<float>(1 + i % 7);
      for (Index c = 0; c < 150; ++c) values(1, c) = 0;
      const Matrix original = values;
      simulate_dynamic(scheme, values.view());
      const Index width = group_width(scheme, 150);
      for (Index r = 0; r < 3; ++r) {
        float row_max = 0;
        for (const float x : original.view().row(r)) row_max = std::max(row_max, std::abs(x));
        const float global = fit_global_scale(scheme, row_max);
        for (Index c = 0; c < 150; ++c) {
          float absmax = 0;
          for (Index k = c / width * width; k < std::min<Index>(150, (c / width + 1) * width); ++k)
            absmax = std::max(absmax, std::abs(original(r, k)));
          const Grid grid = fit_grid(scheme, -absmax, absmax, ScaleRule::ocp, global);
          ASSERT_EQ(values(r, c), decode(scheme, grid, encode(scheme, grid, original(r, c))))
              << name << " " << r << " " << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace aq
