#include "aq/formats/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aq {
namespace {

const Scheme kInt4{.scale_type = ScaleType::f16};
const Scheme kInt4Asymmetric{.symmetric = false, .scale_type = ScaleType::f16};

TEST(FitGrid, Symmetric) {
  const Grid grid = fit_grid(kInt4, -3.75F, 1);  // 3.75 / 7.5 = 0.5
  EXPECT_EQ(grid.scale, 0.5F);
  EXPECT_EQ(grid.zero, 8);
  EXPECT_EQ(fit_grid(kInt4, -1, 7.5F).scale, 1);
  // a range that does not hold 0 counts from 0
  EXPECT_EQ(fit_grid(kInt4, 2, 7.5F).scale, 1);
  const Grid two_bits = fit_grid(Scheme{.bits = 2}, -3, 3);
  EXPECT_EQ(two_bits.scale, 2);
  EXPECT_EQ(two_bits.zero, 2);
}

TEST(FitGrid, Fp32ScalesKeepTheLargestElementOffTheTie) {
  const Scheme scheme{.scale_type = ScaleType::f32};
  const Grid grid = fit_grid(scheme, -1, 0.5F);
  EXPECT_FLOAT_EQ(grid.scale, 1 / 7.49F);
  EXPECT_EQ(encode(scheme, grid, -1), 1);  // -7.49 rounds to -7
}

TEST(FitGrid, ScaleIsAValueOfItsType) {
  EXPECT_EQ(fit_grid(Scheme{.scale_type = ScaleType::bf16}, -1, 0).scale, 0x1.12p-3F);
  EXPECT_EQ(fit_grid(Scheme{.scale_type = ScaleType::f16}, -1, 0).scale, 0x1.11p-3F);
}

TEST(FitGrid, Asymmetric) {
  const Grid grid = fit_grid(kInt4Asymmetric, -1, 2.75F);  // 3.75 / 15 = 0.25; 1 / 0.25 = 4
  EXPECT_EQ(grid.scale, 0.25F);
  EXPECT_EQ(grid.zero, 4);
  const Grid positive = fit_grid(kInt4Asymmetric, 1, 7.5F);  // widened to hold 0
  EXPECT_EQ(positive.scale, 0.5F);
  EXPECT_EQ(positive.zero, 0);
  const Grid negative = fit_grid(kInt4Asymmetric, -7.5F, -1);
  EXPECT_EQ(negative.scale, 0.5F);
  EXPECT_EQ(negative.zero, 15);
}

TEST(FitGrid, GroupOfZeros) {
  EXPECT_EQ(fit_grid(kInt4, 0, 0).scale, 1);
  EXPECT_EQ(fit_grid(kInt4Asymmetric, 0, 0).scale, 1);
  EXPECT_EQ(fit_grid(kInt4Asymmetric, 0, 0).zero, 0);
  EXPECT_EQ(encode(kInt4, fit_grid(kInt4, -0.0F, 0), 0), 8);
}

TEST(FitGrid, ExtremeGroupsStayFinite) {
  const float extremes[] = {std::numeric_limits<float>::denorm_min(),
                            1e-40F,
                            1e-30F,
                            1e30F,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::infinity()};
  for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16}) {
    for (const bool symmetric : {true, false}) {
      const Scheme scheme{.symmetric = symmetric, .scale_type = type};
      for (const float x : extremes) {
        const Grid grid = fit_grid(scheme, -x, x);
        EXPECT_GT(grid.scale, 0);
        EXPECT_TRUE(std::isfinite(grid.scale) && std::isfinite(1 / grid.scale));
        EXPECT_TRUE(grid.zero >= 0 && grid.zero <= 15);
        EXPECT_LE(encode(scheme, grid, x), 15);
        EXPECT_TRUE(std::isfinite(decode(scheme, grid, encode(scheme, grid, -x))) || x > 1e38F);
      }
    }
  }
}

TEST(Encode, TiesToEvenAndClamps) {
  const Grid grid{.scale = 0.5F, .zero = 8};
  EXPECT_EQ(encode(kInt4, grid, 0.25F), 8);   // 0.5 -> 0
  EXPECT_EQ(encode(kInt4, grid, 0.75F), 10);  // 1.5 -> 2
  EXPECT_EQ(encode(kInt4, grid, -0.25F), 8);  // -0.5 -> 0
  EXPECT_EQ(encode(kInt4, grid, -1.25F), 6);  // -2.5 -> -2
  EXPECT_EQ(encode(kInt4, grid, 3.75F), 15);  // 7.5 is above the grid
  EXPECT_EQ(encode(kInt4, grid, -3.75F), 0);  // -7.5 -> -8
  EXPECT_EQ(encode(kInt4, grid, 1e30F), 15);
  EXPECT_EQ(encode(kInt4, grid, -1e30F), 0);
  EXPECT_EQ(encode(kInt4, grid, std::numeric_limits<float>::quiet_NaN()), 0);
}

TEST(Encode, EveryCodeOfEveryWidthComesBack) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int zero = 0; zero < 1 << bits; ++zero) {
      const Scheme scheme{.bits = bits, .symmetric = false};
      const Grid grid{.scale = 0x1.12p-3F, .zero = static_cast<float>(zero)};
      for (int code = 0; code < 1 << bits; ++code) {
        const float value = decode(scheme, grid, static_cast<std::uint8_t>(code));
        ASSERT_EQ(value, static_cast<float>(code - zero) * 0x1.12p-3F);
        ASSERT_EQ(encode(scheme, grid, value), code) << bits << " bits, zero " << zero;
      }
    }
  }
}

}  // namespace
}  // namespace aq
