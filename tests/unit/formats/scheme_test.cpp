#include "aq/formats/scheme.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aq/core/dtype.h"

namespace aq {
namespace {

TEST(Scheme, EveryFormatNameIsKnownAndComesBack) {
  ASSERT_EQ(format_names().size(), 18U);
  for (const std::string_view name : format_names()) {
    const auto scheme = scheme_from_format(name);
    ASSERT_TRUE(scheme) << name;
    EXPECT_EQ(format_name(*scheme), name);
  }
  EXPECT_FALSE(scheme_from_format("int1"));
  EXPECT_FALSE(scheme_from_format("int9"));
  EXPECT_FALSE(scheme_from_format("INT4"));
}

TEST(Scheme, Text) {
  EXPECT_EQ(to_string(Scheme{}), "int4 g128");
  EXPECT_EQ(to_string(Scheme{.bits = 3, .symmetric = false, .group_size = 32}),
            "int3 g32 asymmetric");
  EXPECT_EQ(to_string(Scheme{.bits = 8, .group_size = kPerChannel}), "int8 per-channel");
  EXPECT_EQ(to_string(Scheme{.bits = 8, .group_size = kPerTensor}), "int8 per-tensor");
}

TEST(Scheme, ScaleTypeNames) {
  for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16}) {
    EXPECT_EQ(scale_type_from_name(scale_type_name(type)), type);
  }
  EXPECT_EQ(scale_type_name(ScaleType::bf16), "bf16");
  EXPECT_FALSE(scale_type_from_name("fp8"));
}

TEST(Scheme, Groups) {
  const Scheme g128;
  EXPECT_EQ(group_count(g128, 256), 2);
  EXPECT_EQ(group_count(g128, 172), 2);  // 128 and a short group of 44
  EXPECT_EQ(group_width(g128, 172), 128);
  EXPECT_EQ(group_width(g128, 100), 100);  // a group wider than the row is the row
  EXPECT_EQ(group_count(g128, 100), 1);
  const Scheme channel{.group_size = kPerChannel};
  EXPECT_EQ(group_width(channel, 300), 300);
  EXPECT_EQ(scale_count(channel, 7, 300), 7);
  const Scheme tensor{.group_size = kPerTensor};
  EXPECT_EQ(group_count(tensor, 300), 1);
  EXPECT_EQ(scale_count(tensor, 7, 300), 1);
  EXPECT_EQ(scale_count(g128, 7, 300), 21);
}

TEST(Scheme, StoredBits) {
  EXPECT_EQ(stored_bits(Scheme{}, 2, 256), 2 * 256 * 4 + 2 * 2 * 16);
  // 172 codes of 3 bits take 17 words; 6 groups with a scale of 32 and a zero of 8 bits
  const Scheme odd{.bits = 3, .symmetric = false, .group_size = 32, .scale_type = ScaleType::f32};
  EXPECT_EQ(stored_bits(odd, 5, 172), 5 * (17 * 32 + 6 * 40));
}

TEST(RoundScale, AgreesWithTheConversionsOfCore) {
  const float factors[] = {1.0F, 1.00390625F, 1.01171875F, 1.2345678F, 1.9999999F, 1.5F};
  for (int exponent = -30; exponent < 15; ++exponent) {
    for (const float factor : factors) {
      const float x = std::ldexp(factor, exponent);
      EXPECT_EQ(round_scale(ScaleType::f32, x), x);
      EXPECT_EQ(round_scale(ScaleType::bf16, x), bf16_to_float(float_to_bf16(x)));
      const float half = f16_to_float(float_to_f16(x));
      EXPECT_EQ(round_scale(ScaleType::f16, x), half > 0 ? half : 0x1p-24F) << x;
    }
  }
}

TEST(RoundScale, EveryHalfAndItsMidpoints) {
  for (std::uint16_t bits = 1; bits < 0x7bff; ++bits) {
    const float here = f16_to_float(bits);
    const float next = f16_to_float(static_cast<std::uint16_t>(bits + 1));
    const float even = bits % 2 == 0 ? here : next;
    ASSERT_EQ(round_scale(ScaleType::f16, here), here);
    ASSERT_EQ(round_scale(ScaleType::f16, (here + next) / 2), even) << here;
  }
}

TEST(RoundScale, NeverZeroNeverInfinite) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(round_scale(ScaleType::f32, tiny), std::numeric_limits<float>::min());
  EXPECT_EQ(round_scale(ScaleType::bf16, tiny), std::numeric_limits<float>::min());
  EXPECT_EQ(round_scale(ScaleType::f16, tiny), 0x1p-24F);
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(round_scale(ScaleType::f32, std::numeric_limits<float>::infinity()), largest);
  EXPECT_EQ(round_scale(ScaleType::bf16, largest), 0x1.fep127F);
  EXPECT_EQ(round_scale(ScaleType::f16, largest), 65504.0F);
  EXPECT_EQ(round_scale(ScaleType::f16, 65519.0F), 65504.0F);
}

}  // namespace
}  // namespace aq
